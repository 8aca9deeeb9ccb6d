"""The record of one request's routing: per token, module and slot the adapter and its score."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, overload

from lag_engine.routing.selections import Routed

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Sequence

    from lag_engine.routing.plan import Plan
    from lag_engine.routing.recorder import Decisions, Recorder
    from lag_engine.routing.selections import Slot

Shares = dict[str | None, float]
"""Share of the decisions for each adapter; None is the base model; sums to 1, or is empty."""


class Record(NamedTuple):
    """One adapter applied, or none, at one token of one module.

    Attributes:
        token: position in the trace.
        module: full dotted path.
        slot: the slot that chose.
        adapter: its name; None where the token stayed on the base.
        score: the deciding score; None where the adapter was pinned.
        weight: routing weight; 0 on the base.
    """

    token: int
    module: str
    slot: Slot
    adapter: str | None
    score: float | None
    weight: float


@dataclass(frozen=True)
class RoutingTrace:
    """What every token of one request was routed to.

    The last generated token is never fed to the model, so it has no decision and is not here.

    Args:
        token_ids: the tokens that passed through the model; T of them.
        tokens: their text.
        plan: what the request applied; its repr says which router and score decided.
        decisions: one for each module and slot that could choose; T rows each.
    """

    token_ids: tuple[int, ...]
    tokens: tuple[str, ...]
    plan: Plan
    decisions: tuple[Decisions, ...]

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The plan's slots that held a selection, also where nothing came of it."""
        return self.plan.slots

    @classmethod
    def from_recorder(
        cls,
        recorder: Recorder,
        *,
        request: int,
        token_ids: Sequence[int],
        tokens: Sequence[str],
        plan: Plan,
    ) -> RoutingTrace:
        """Returns the trace of one row of the recorded batch.

        Args:
            recorder: what was active while the batch ran.
            request: row of the batch.
            token_ids: prompt and generated tokens; what was not fed to the model is cut off.
            tokens: the text of each.
            plan: the request's plan.
        """
        decisions = tuple(recorder.decisions(request))
        n_tokens = min((len(item.rows) for item in decisions), default=len(token_ids))
        return cls(tuple(token_ids[:n_tokens]), tuple(tokens[:n_tokens]), plan, decisions)

    @overload
    def share(self, by: Literal["adapter"] = "adapter", *, slot: Slot | None = None) -> Shares: ...

    @overload
    def share(
        self, by: Literal["slot", "module", "layer", "token"], *, slot: Slot | None = None
    ) -> dict[Any, Shares]: ...

    def share(
        self,
        by: Literal["adapter", "slot", "module", "layer", "token"] = "adapter",
        *,
        slot: Slot | None = None,
    ) -> Shares | dict[Any, Shares]:
        """Returns how often each adapter was applied.

        Every decision, a token at a module in a slot, counts once; where it mixed several
        adapters, each counts by the size of its weight.

        Args:
            by: "adapter" for the whole request; else shares within each slot, module, layer
                (None for a module outside the numbered layers) or token position.
            slot: only this slot's decisions.
        """
        counts: dict[Hashable, dict[str | None, float]] = defaultdict(lambda: defaultdict(float))
        for record, part in self._weighted(slot):
            counts[_group(record, by)][record.adapter] += part
        shares = {key: _normalised(count) for key, count in counts.items()}
        return shares.get(None, {}) if by == "adapter" else shares

    def entropy(self, *, slot: Slot | None = None) -> float:
        """Returns the entropy of the shares in bits: 0 where one adapter took every decision."""
        return -sum(p * math.log2(p) for p in self.share(slot=slot).values() if p > 0) + 0.0

    def applied(self, *, slot: Slot | None = None) -> float:
        """Returns the share of decisions that applied an adapter; 0 where none could choose."""
        return sum(share for name, share in self.share(slot=slot).items() if name is not None)

    def records(self) -> list[dict[str, Any]]:
        """Returns one plain record for each adapter applied, or for the base where none was."""
        return [
            {
                **record._asdict(),
                "token_id": self.token_ids[record.token],
                "text": self.tokens[record.token],
                "layer": layer_of(record.module),
            }
            for record in self._iterate(None)
        ]

    def summary(self, *, most: int = 3) -> dict[str, Any]:
        """Returns the shortest useful account, as JSON takes it.

        Args:
            most: adapters listed for each slot, most used first.
        """
        return {
            "tokens": len(self.token_ids),
            "slots": {slot: self._slot_summary(slot, most) for slot in self.slots},
        }

    def to_dict(self) -> dict[str, Any]:
        """Returns the whole trace as JSON takes it; adapters by name, None for the base."""
        return {
            "token_ids": list(self.token_ids),
            "tokens": list(self.tokens),
            "plan": self.plan.key,
            "slots": list(self.slots),
            "selections": {slot: repr(self.plan.selection(slot)) for slot in self.slots},
            "decisions": [_plain(decisions) for decisions in self.decisions],
        }

    def _slot_summary(self, slot: Slot, most: int) -> dict[str, Any]:
        shares = sorted(self.share(slot=slot).items(), key=lambda item: -item[1])
        named = [{"adapter": name, "share": share} for name, share in shares if name is not None]
        selection = self.plan.selection(slot)
        return {
            "router": repr(selection.router) if isinstance(selection, Routed) else None,
            "modules": sum(decisions.slot == slot for decisions in self.decisions),
            "applied": self.applied(slot=slot),
            "entropy_bits": self.entropy(slot=slot),
            "adapters": named[:most],
        }

    def _iterate(self, slot: Slot | None) -> Iterator[Record]:
        """Yields the applied adapters of each decision, or the base once."""
        for decisions in self.decisions:
            if slot in (None, decisions.slot):
                yield from _records(decisions)

    def _weighted(self, slot: Slot | None) -> Iterator[tuple[Record, float]]:
        """Yields each record with its part of its decision; the parts of a decision sum to 1."""
        totals: dict[tuple[int, str, Slot], float] = defaultdict(float)
        records = list(self._iterate(slot))
        for record in records:
            totals[record[:3]] += abs(record.weight)
        for record in records:
            total = totals[record[:3]]
            yield record, abs(record.weight) / total if total else 1.0


def layer_of(module: str) -> int | None:
    """Returns the layer a module belongs to: the first number in its path, or None."""
    number = re.search(r"(?:^|\.)(\d+)(?:\.|$)", module)
    return int(number[1]) if number else None


def _group(record: Record, by: str) -> Hashable:
    return (
        None
        if by == "adapter"
        else layer_of(record.module)
        if by == "layer"
        else getattr(record, by)
    )


def _normalised(count: dict[str | None, float]) -> Shares:
    total = sum(count.values())
    return {name: part / total for name, part in count.items()} if total else {}


def _records(decisions: Decisions) -> Iterator[Record]:
    rows, scores, weights = (part.tolist() for part in decisions[3:])
    for token, row in enumerate(rows):
        applied = [k for k, weight in enumerate(weights[token]) if weight != 0]
        for k in applied or [0]:
            adapter = decisions.names[row[k]] if applied else None
            score = None if math.isnan(scores[token][k]) else scores[token][k]
            yield Record(token, decisions.module, decisions.slot, adapter, score, weights[token][k])


def _plain(decisions: Decisions) -> dict[str, Any]:
    names = decisions.names
    return {
        "module": decisions.module,
        "slot": decisions.slot,
        "adapters": [
            [names[row] if row >= 0 else None for row in rows] for rows in decisions.rows.tolist()
        ],
        "scores": [
            [None if math.isnan(score) else score for score in scores]
            for scores in decisions.scores.tolist()
        ],
        "weights": decisions.weights.tolist(),
    }
