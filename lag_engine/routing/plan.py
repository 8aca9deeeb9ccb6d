"""A plan: what one request applies in its two slots, and whether its prompt holds documents.

Every mode is a plan plus a prompt. Plans are immutable values: hashable, equal when they mean the
same, and their key names them completely.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

from lag_engine.errors import PlanError
from lag_engine.routing.routers import LAG, Arrow, SpectR, require_bool
from lag_engine.routing.selections import (
    SLOTS,
    Generated,
    Latent,
    Pinned,
    Routed,
    Selection,
    Slot,
    Weights,
)

if TYPE_CHECKING:
    from lag_engine.routing.choice import Router
    from lag_engine.routing.scores import Score

_Filling = type[Routed] | type[Pinned] | type[Latent] | type[Generated] | None
_Row = tuple[_Filling, ...]

MODES: dict[str, tuple[_Row, _Row]] = {
    "base": ((None,), (None,)),
    "arrow": ((Routed,), (Routed,)),
    "spectr": ((Routed,), (Routed,)),
    "lag": ((Routed,), (Routed,)),
    "rag": ((None,), (None,)),
    "prag": ((None,), (Pinned,)),
    "dyprag": ((None,), (Generated,)),
    "polyprag": ((None,), (Latent,)),
    "rag+lag": ((Routed,), (None, Routed)),
    "prag+lag": ((Routed,), (Pinned,)),
    "dyprag+lag": ((Routed,), (Generated,)),
    "polyprag+lag": ((Routed,), (Latent,)),
    "rag+prag+lag": ((Routed,), (Pinned,)),
    "oracle": ((Pinned,), (Pinned,)),
}
"""Mode -> what its task slot and its knowledge slot may hold."""

_ANYTHING: _Row = (None, Routed, Pinned, Latent, Generated)
_CUSTOM = {"custom": (_ANYTHING, _ANYTHING), "rag+custom": (_ANYTHING, _ANYTHING)}
_Named = type[Pinned] | type[Latent] | type[Generated]

Names = Weights | Mapping[Slot, Weights]
Candidates = str | Iterable[str] | Mapping[Slot, Iterable[str] | None]


@dataclass(frozen=True)
class Plan:
    """What one request applies.

    Args:
        mode: a row of `MODES`, or "custom" ("rag+custom" with documents in the prompt) for any
            other filling of the slots.
        task: the task slot's selection.
        knowledge: the knowledge slot's selection.

    Raises:
        PlanError: an unknown mode, or a selection the mode does not have.
    """

    mode: str
    task: Selection | None = None
    knowledge: Selection | None = None

    def __post_init__(self) -> None:
        legal = (MODES | _CUSTOM).get(self.mode)
        if legal is None:
            raise _unknown_mode(self.mode)
        for slot, fillings in zip(SLOTS, legal, strict=True):
            selection = self.selection(slot)
            if (None if selection is None else type(selection)) not in fillings:
                raise PlanError(
                    f"Expected mode {self.mode!r} to hold {_named(fillings)} in its {slot} slot",
                    f"Found {_named((None if selection is None else type(selection),))}",
                    "Use Plan.from_mode, or mode 'custom' for a combination of your own",
                )

    def selection(self, slot: Slot) -> Selection | None:
        """Returns what a slot holds."""
        return self.task if slot == "task" else self.knowledge

    @property
    def key(self) -> str:
        """A short name of the plan's complete content, equal in every process; for cache keys."""
        content = repr((self.mode, self.task, self.knowledge))
        return f"{self.mode}-{hashlib.sha256(content.encode()).hexdigest()[:32]}"

    @property
    def reads_documents(self) -> bool:
        """Whether the retrieved documents' text goes into the prompt."""
        return "rag" in self.mode.split("+")

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The slots that hold something."""
        return tuple(slot for slot in SLOTS if self.selection(slot) is not None)

    @classmethod
    def from_mode(
        cls,
        mode: str,
        *,
        retrieve_k: int | Literal["adaptive"] = 20,
        score: Score = "projection",
        top_k: int = 1,
        temperature: float = 1.0,
        floor: float | None = None,
        approximate: bool = False,
        candidates: Candidates | None = None,
        adapters: Names | None = None,
        knowledge_routed: bool = False,
    ) -> Plan:
        """Returns the plan of a mode.

        Options that the mode's router does not have are not used, so that one set of options
        serves a comparison of all modes; the plan's repr shows what is.

        Args:
            mode: a key of `MODES`.
            retrieve_k: candidates a token reranks, or "adaptive"; lag and +lag.
            score: what decides among them; spectr, lag and +lag.
            top_k: adapters mixed; arrow and spectr.
            temperature: of Arrow's softmax over its top_k.
            floor: score below which a token stays on the base; lag and +lag.
            approximate: permits that a retrieved adapter is missed, for speed over thousands of
                adapters (see `LAG`); arrow, lag and +lag.
            candidates: names that may be routed to, for every routed slot or per slot; a name
                serves the slot of its own kind only.
            adapters: what the mode applies by name, ``{"task": ..., "knowledge": ...}`` or flat
                where only the knowledge slot has names; names, or a weight for each. Of adapters
                in prag, of mixtures in polyprag, of generated adapters in dyprag.
            knowledge_routed: rag+lag routes the knowledge slot too.

        Raises:
            PlanError: an unknown mode, pinned adapters missing or given where none belong, or an
                option out of range.
        """
        if mode not in MODES:
            raise _unknown_mode(mode)
        row = dict(zip(SLOTS, MODES[mode], strict=True))
        require_bool("knowledge_routed", knowledge_routed)
        if knowledge_routed and Routed not in row["knowledge"]:
            raise PlanError(
                "Expected knowledge_routed only where the knowledge slot is routed",
                f"Found it with mode {mode!r}",
                "Leave it out; 'rag+lag' takes it, 'lag' always routes both slots",
            )
        router = _router(mode, retrieve_k, score, top_k, temperature, floor, approximate)
        pinned = _pinned(mode, _named_slots(mode), adapters)
        selections: dict[Slot, Selection | None] = {}
        for slot in SLOTS:
            routed = row[slot] == (Routed,) or (Routed in row[slot] and knowledge_routed)
            selections[slot] = _routed(router, candidates, slot) if routed else pinned.get(slot)
        return cls(mode, selections["task"], selections["knowledge"])


def _router(
    mode: str,
    retrieve_k: int | Literal["adaptive"],
    score: Score,
    top_k: int,
    temperature: float,
    floor: float | None,
    approximate: bool,
) -> Router:
    if mode == "arrow":
        return Arrow(top_k, temperature, approximate)
    if mode == "spectr":
        return SpectR(top_k, score)
    return LAG(retrieve_k, score, floor, approximate=approximate)


def _routed(router: Router, candidates: Candidates | None, slot: Slot) -> Routed:
    names = candidates.get(slot) if isinstance(candidates, Mapping) else candidates
    return Routed(router, names)


def _named_slots(mode: str) -> dict[Slot, _Named]:
    """Returns the slots of a mode that hold adapters by name, and what they hold."""
    return {
        slot: filling
        for slot, fillings in zip(SLOTS, MODES[mode], strict=True)
        for filling in (Pinned, Latent, Generated)
        if filling in fillings
    }


def _pinned(
    mode: str, slots: Mapping[Slot, _Named], adapters: Names | None
) -> dict[Slot, Selection]:
    """Returns the selection of each slot that needs names."""
    given = _by_slot(adapters, list(slots))
    if set(given) != set(slots):
        raise PlanError(
            f"Expected pinned adapters for {_listed(list(slots))} in mode {mode!r}",
            f"Found them for {_listed(list(given))}",
            f"Pass adapters={{{_example(slots)}}} (--adapter NAME on the command line, "
            "MODEL:NAME over HTTP); over retrieved documents, the parametric documents chain or "
            "synthesizer does"
            if slots
            else "Leave adapters out, or choose a mode that pins some, such as 'prag'",
        )
    return {slot: slots[slot](names) for slot, names in given.items()}


def _example(slots: Iterable[Slot]) -> str:
    return ", ".join(f'"{slot}": names' for slot in slots)


def _by_slot(adapters: Names | None, slots: list[Slot]) -> dict[Slot, Weights]:
    if adapters is None:
        return {}
    if _is_nested(adapters):
        given = cast("Mapping[Slot, Weights]", adapters)
        return {slot: names for slot, names in given.items() if names}
    if len(slots) > 1:
        raise PlanError(
            "Expected to be told which adapter is for which slot",
            "Found a flat list for a mode that pins both",
            'Pass adapters={"task": names, "knowledge": names}',
        )
    return {slots[0] if slots else "knowledge": adapters}


def _is_nested(adapters: Names) -> bool:
    """Tells a mapping by slot from one by adapter name: the latter's values are numbers."""
    return (
        isinstance(adapters, Mapping)
        and all(key in SLOTS for key in adapters)
        and not any(isinstance(value, int | float) for value in adapters.values())
    )


def _unknown_mode(mode: str) -> PlanError:
    return PlanError(
        f"Expected one of the modes {', '.join(MODES)}",
        f"Found {mode!r}",
        "Choose one; '+' joins them in this order",
    )


def _named(fillings: _Row) -> str:
    return " or ".join("nothing" if filling is None else filling.__name__ for filling in fillings)


def _listed(slots: list[Slot]) -> str:
    return " and ".join(f"the {slot} slot" for slot in slots) or "no slot"
