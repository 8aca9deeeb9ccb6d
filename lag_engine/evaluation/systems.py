"""The systems that an experiment compares: a mode, its options, and whose document it gets."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

from lag_engine.errors import EvaluationError
from lag_engine.evaluation.suite import MIXED, PAIRED
from lag_engine.routing import MODES

if TYPE_CHECKING:
    from lag_engine.evaluation.suite import Suite
    from lag_engine.model.engine import LAGEngine
    from lag_engine.routing import Score

Source = Literal["retrieved", "right", "wrong", "none"]
GENERATED = "dyprag"

ROUTERS = ("arrow", "spectr", "lag")
"""The modes that route both slots over the whole library."""

_TITLES = {
    "base": "Instr",
    "arrow": "Arrow",
    "spectr": "SpectR",
    "lag": "LAG",
    "oracle": "Oracle",
    "rag": "RAG",
    "prag": "PRAG",
    "dyprag": "DyPRAG",
    "polyprag": "Poly-PRAG",
}


@dataclass(frozen=True)
class System:
    """One row of the tables. What its mode does not use is set back to the default.

    Attributes:
        mode: of `Plan.from_mode`.
        document: whose text or adapter a question gets. Where a router chooses among all
            knowledge adapters: "right" leaves the library as it is, "wrong" takes the question's
            gold adapters out, "none" leaves the knowledge slot empty.
        retrieve_k: as in `Plan.from_mode`.
        score: as in `Plan.from_mode`.
        top_k: as in `Plan.from_mode`.
        retriever: the name of who finds the document.
        n_documents: how many are found for a question.
        encoding: which adapters of the documents are pinned in PRAG's place; "" for the mode's own.
        library_size: routed knowledge slots choose among the gold adapters and others drawn at
            random, so many together; None for all.
        knowledge_routed: as in `Plan.from_mode`.
    """

    mode: str
    document: Source = "retrieved"
    retrieve_k: int | Literal["adaptive"] = 20
    score: Score = "projection"
    top_k: int = 1
    retriever: str = "bm25"
    n_documents: int = 1
    encoding: str = ""
    library_size: int | None = None
    knowledge_routed: bool = False

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise EvaluationError(
                f"Expected a mode of {', '.join(MODES)}", f"found {self.mode!r}", "choose one"
            )
        unused = {
            "retrieve_k": not self.has_lag,
            "score": not (self.has_lag or self.mode == "spectr"),
            "top_k": self.mode not in ("arrow", "spectr"),
            "retriever": not self.retrieves,
            "n_documents": not self.retrieves,
            "encoding": not {PAIRED, "oracle"} & set(self.parts),
            "library_size": not self.routes_knowledge,
            "knowledge_routed": self.mode != "rag+lag",
        }
        for name in (name for name, is_unused in unused.items() if is_unused):
            object.__setattr__(self, name, _DEFAULTS[name])
        if self.document == "retrieved" and not self.retrieves:
            object.__setattr__(self, "document", "none" if self.mode == "base" else "right")
        if self.mode == "base":
            object.__setattr__(self, "document", "none")
        if self.encoding == self.own_encoding:
            object.__setattr__(self, "encoding", "")

    @property
    def parts(self) -> list[str]:
        """The mode's parts, as "rag" and "lag"."""
        return self.mode.split("+")

    @property
    def has_lag(self) -> bool:
        """Whether LAG's router chooses somewhere."""
        return "lag" in self.parts

    @property
    def shows_text(self) -> bool:
        """Whether the document's text goes into the prompt."""
        return "rag" in self.parts and self.document != "none"

    @property
    def pins_documents(self) -> bool:
        """Whether adapters of the question's documents are applied by name."""
        return any(part in ("prag", MIXED, GENERATED, "oracle") for part in self.parts)

    @property
    def retrieves(self) -> bool:
        """Whether the question's document is found by a retriever."""
        takes_documents = "rag" in self.parts or (self.pins_documents and self.mode != "oracle")
        return takes_documents and self.document == "retrieved"

    @property
    def routes_knowledge(self) -> bool:
        """Whether a router chooses among knowledge adapters."""
        return self.mode in ROUTERS or self.knowledge_routed

    @property
    def own_encoding(self) -> str:
        """The encoding that the mode is named after; PRAG's where it is named after none."""
        return next((part for part in self.parts if part in (MIXED, GENERATED)), PAIRED)

    @property
    def adapters_of(self) -> str:
        """The encoding whose adapters are applied or gold."""
        return self.encoding or self.own_encoding

    @property
    def title(self) -> str:
        """The mode as the papers write it."""
        return "+".join(_TITLES.get(part, part.upper()) for part in self.parts)

    @property
    def name(self) -> str:
        """The mode, and whatever is not as usual."""
        usual = System(self.mode)
        told: dict[str, tuple[str, Callable[[Any], str]]] = {
            "K": ("retrieve_k", str),
            "score": ("score", str),
            "top": ("top_k", str),
            "by": ("retriever", str),
            "documents": ("n_documents", str),
            "adapters": ("encoding", str),
            "library": ("library_size", str),
            "knowledge": ("knowledge_routed", lambda _: "routed"),
            "document": ("document", str),
        }
        notes = [
            f"{word} {text(getattr(self, field))}"
            for word, (field, text) in told.items()
            if getattr(self, field) != getattr(usual, field)
        ]
        return ", ".join([self.mode, *notes])

    def told(self) -> dict[str, Any]:
        """The mode and what is not as usual, as JSON takes it; `System(**told)` undoes it."""
        usual = System(self.mode)
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return {
            name: value
            for name, value in values.items()
            if name == "mode" or value != getattr(usual, name)
        }


_DEFAULTS: dict[str, Any] = {item.name: item.default for item in fields(System)}


def grid(modes: Iterable[str], **options: Sequence[Any]) -> list[System]:
    """Returns every combination once; what a mode does not use makes no system of its own.

    Args:
        modes: to be combined with the options.
        **options: attributes of `System`, each with the values it takes.
    """
    combined = itertools.product(modes, *options.values())
    systems = (
        System(mode, **dict(zip(options, values, strict=True))) for mode, *values in combined
    )
    return list(dict.fromkeys(systems))


def one_at_a_time(modes: Sequence[str], **options: Sequence[Any]) -> list[System]:
    """Returns the modes as usual, and with each option varied while the others stay as usual.

    Args:
        modes: the modes.
        **options: as for `grid`.
    """
    varied = (grid(modes, **{name: values}) for name, values in options.items())
    return list(dict.fromkeys(itertools.chain(grid(modes), *varied)))


def obstacle(system: System, suite: Suite, engine: LAGEngine, *, made: Collection[str] = ()) -> str:
    """Tells why a system cannot run on a suite; "" if it can.

    Args:
        system: to be run.
        suite: what is asked.
        engine: with its library.
        made: the encodings whose adapters somebody makes while questions are asked.
    """
    kinds = {info.kind for info in engine.library.list()} if engine.library else set()
    needs_document = system.document != "none" and system.mode not in ROUTERS
    if needs_document and not suite.documents:
        return "there are no documents"
    if needs_document and system.document != "retrieved" and _without_gold(suite):
        return "some questions name no gold document"
    takes_gold_out = system.document == "wrong" or system.library_size is not None
    if system.routes_knowledge and takes_gold_out and _without_adapters(system, suite):
        return f"some questions name no gold document with a {system.adapters_of} adapter"
    if system.mode in ROUTERS and not kinds & {"task", "knowledge"}:
        return "the library has no adapters"
    if system.mode not in ROUTERS and system.has_lag and "task" not in kinds:
        return "the library has no task adapters"
    if system.mode == "oracle" and not all(q.task_adapter for q in suite.questions):
        return "some questions name no gold task adapter"
    if system.adapters_of in made:
        return ""
    if system.adapters_of == GENERATED:
        return "there is no translator that makes adapters"
    lacking = [d.id for d in suite.documents if system.adapters_of not in d.adapters]
    if system.pins_documents and system.document != "none" and lacking:
        n = len(suite.documents)
        return f"{len(lacking)} of {n} documents have no {system.adapters_of} adapter"
    return ""


def _without_gold(suite: Suite) -> list[str]:
    return [question.id for question in suite.questions if not suite.right(question)]


def _without_adapters(system: System, suite: Suite) -> list[str]:
    return [
        question.id
        for question in suite.questions
        if not suite.right(question)
        or any(system.adapters_of not in d.adapters for d in suite.right(question))
    ]
