"""How a system answers a batch of questions: documents, prompts, plans, generations."""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from lag_engine.documents import Passage
from lag_engine.errors import EvaluationError, PromptTooLongError
from lag_engine.evaluation.planning import Planner
from lag_engine.evaluation.systems import ROUTERS

if TYPE_CHECKING:
    from lag_engine.evaluation.retrieval import Retriever
    from lag_engine.evaluation.suite import EvaluationDocument, EvaluationQuestion, Suite
    from lag_engine.evaluation.systems import System
    from lag_engine.model.engine import LAGEngine
    from lag_engine.model.generation import Generation
    from lag_engine.routing import Plan

DEPTH = 5
"""How many retrieved documents are recorded, for recall@5."""


class AdapterMaker(Protocol):
    """Supplies adapters of passages while questions are asked, as `DyPRAG` does.

    Attributes:
        fingerprint: equal only for makers that supply the same adapters.
    """

    fingerprint: str

    def generated(self, passages: Sequence[Passage]) -> AbstractContextManager[tuple[str, ...]]:
        """Holds the passages' adapters; gives their names, passage by passage."""


@dataclass(frozen=True)
class Settings:
    """What holds for every system of an experiment.

    Attributes:
        max_new_tokens: of an answer.
        stop: strings that end an answer.
        context_template: the user's message where documents are shown; with {context} and {input}.
        document_tokens: documents are cut after so many tokens; None shows them whole.
        seed: of whatever is drawn: wrong documents, smaller libraries.
        is_traced: whether routing accuracy is measured; it costs time.
    """

    max_new_tokens: int = 32
    stop: tuple[str, ...] = ()
    context_template: str = "Text: {context}\n\n{input}"
    document_tokens: int | None = None
    seed: int = 0
    is_traced: bool = True


class Answered(NamedTuple):
    """A batch's answers.

    Attributes:
        generations: one for each question.
        n_cut: how many of each question's documents were cut.
        seconds: all that it took.
        n_decoded: how many were not known already.
    """

    generations: list[Generation]
    n_cut: list[int]
    seconds: float
    n_decoded: int


class Answerer:
    """Asks an engine.

    Args:
        engine: who answers.
        suite: what is asked.
        settings: of the experiment.
        retrievers: over the suite's documents, in their order; by name.
        makers: of adapters that the library does not have; by encoding.
    """

    def __init__(
        self,
        engine: LAGEngine,
        suite: Suite,
        settings: Settings,
        *,
        retrievers: Mapping[str, Retriever],
        makers: Mapping[str, AdapterMaker],
    ) -> None:
        self._engine = engine
        self._suite = suite
        self._settings = settings
        self._retrievers = retrievers
        self._makers = makers
        self._planner = Planner(engine, suite, seed=settings.seed)
        self._known: dict[Hashable, Generation] = {}
        self._found: dict[tuple[str, int], dict[str, list[EvaluationDocument]]] = {}

    def forget(self) -> None:
        """Forgets what was asked, so that it is decoded anew."""
        self._known.clear()

    def answers(
        self,
        system: System,
        questions: Sequence[EvaluationQuestion],
        used: Sequence[Sequence[EvaluationDocument]],
        *,
        is_traced: bool,
    ) -> Answered:
        """Answers questions in one batch.

        Systems often ask the same: their retrievers found the same document, or K is more than
        there are adapters. What was asked since `forget` is not decoded again.

        Args:
            system: under which they are asked.
            questions: of one data set.
            used: for each question its documents.
            is_traced: records routing decisions.

        Raises:
            EvaluationError: a prompt does not fit the model's context.
        """
        began = time.monotonic()
        prompts, n_cut = [], []
        for question, documents in zip(questions, used, strict=True):
            texts, cut = self._texts(documents if system.shows_text else ())
            prompts.append(self._prompt(question.prompt, texts))
            n_cut.append(cut)
        with self._generated(system, used) as generated:
            plans = [
                self._planner.plan(system, question, documents, generated)
                for question, documents in zip(questions, used, strict=True)
            ]
            keys = [
                (str(prompt), plan.task, plan.knowledge, is_traced)
                for prompt, plan in zip(prompts, plans, strict=True)
            ]
            asked = dict(zip(keys, zip(prompts, plans, strict=True), strict=True))
            new = {key: request for key, request in asked.items() if key not in self._known}
            try:
                self._known.update(zip(new, self._decoded(new.values(), is_traced), strict=True))
            except PromptTooLongError as error:
                raise EvaluationError(
                    f"Expected the questions of {questions[0].data_set} to fit the model",
                    f"found under {system.name}: {error}",
                    "limit document_tokens or max_new_tokens, or leave long questions out",
                ) from error
        seconds = time.monotonic() - began
        return Answered([self._known[key] for key in keys], n_cut, seconds, len(new))

    def _decoded(
        self, requests: Iterable[tuple[Any, Plan]], is_traced: bool
    ) -> Sequence[Generation]:
        pairs = list(requests)
        if not pairs:
            return []
        return self._engine.generate_batch(
            [prompt for prompt, _ in pairs],
            plans=[plan for _, plan in pairs],
            trace=is_traced,
            max_new_tokens=self._settings.max_new_tokens,
            stop=list(self._settings.stop),
        )

    @contextmanager
    def _generated(
        self, system: System, used: Sequence[Sequence[EvaluationDocument]]
    ) -> Iterator[dict[str, str]]:
        """Holds the adapters that are made for the batch; their names by document id."""
        documents = {d.id: d for row in used for d in row}
        maker = self._makers.get(system.adapters_of)
        if maker is None or not system.pins_documents or not documents:
            yield {}
            return
        passages = [Passage(d.id, d.text, d.title) for d in documents.values()]
        with maker.generated(passages) as names:
            yield dict(zip(documents, names, strict=True))

    def documents(self, system: System, question: EvaluationQuestion) -> list[EvaluationDocument]:
        """What the question gets, best first; more than the system uses where it retrieves."""
        if system.retrieves:
            return self._retrieved(system.retriever, system.n_documents)[question.id]
        if system.mode in ROUTERS or system.document == "none":
            return []
        if system.document == "wrong":
            return self._suite.wrong(question, self._settings.seed)
        return self._suite.right(question)

    def _retrieved(self, name: str, n: int) -> dict[str, list[EvaluationDocument]]:
        if (name, n) not in self._found:
            asked = self._suite.questions
            k = max(DEPTH, n)
            ranks = self._retrievers[name].rank([question.prompt for question in asked], k)
            self._found[name, n] = {
                question.id: [self._suite.documents[i] for i in positions]
                for question, positions in zip(asked, ranks, strict=True)
            }
        return self._found[name, n]

    def _texts(self, documents: Sequence[EvaluationDocument]) -> tuple[list[str], int]:
        """The documents' texts as they are shown, and how many were cut."""
        limit, tokenizer = self._settings.document_tokens, self._engine.tokenizer
        texts, n_cut = [], 0
        for document in documents:
            text = document.text
            if limit is not None:
                ids = tokenizer.encode(text, add_special_tokens=False, verbose=False)
                if len(ids) > limit:
                    text, n_cut = str(tokenizer.decode(ids[:limit])), n_cut + 1
            texts.append(text)
        return texts, n_cut

    def _prompt(self, question: str, texts: Sequence[str]) -> Any:
        """A user's message, or bare text for a model without a chat template."""
        text = question
        if texts:
            context = "\n\n".join(texts)
            text = self._settings.context_template.format(context=context, input=question)
        return [{"role": "user", "content": text}] if self._engine.tokenizer.chat_template else text
