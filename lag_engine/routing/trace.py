"""The record of one request's routing: per token, module and slot the adapter and its score."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, overload

import torch

from lag_engine.routing.choice import NOT_APPLIED
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
        token_ids: Sequence[int],
        tokens: Sequence[str],
        plan: Plan,
    ) -> RoutingTrace:
        """Returns the trace of a recorded request.

        Args:
            recorder: what was active while the request ran.
            token_ids: prompt and generated tokens; what was not fed to the model is cut off.
            tokens: the text of each.
            plan: the request's plan.
        """
        decisions = tuple(recorder.decisions())
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
        for decisions in self._of(slot):
            group = _group(decisions, by)
            for token, adapter, count in _counts(decisions, by_token=by == "token"):
                counts[token if by == "token" else group][adapter] += count
        shares = {key: _normalised(count) for key, count in counts.items()}
        return shares.get(None, {}) if by == "adapter" else shares

    def entropy(self, *, slot: Slot | None = None) -> float:
        """Returns the entropy of the shares in bits: 0 where one adapter took every decision."""
        return _entropy(self.share(slot=slot))

    def applied(self, *, slot: Slot | None = None) -> float:
        """Returns the share of decisions that applied an adapter; 0 where none could choose."""
        return _applied(self.share(slot=slot))

    def records(self) -> list[dict[str, Any]]:
        """Returns one plain record for each adapter applied, or for the base where none was."""
        return [
            {
                **record._asdict(),
                "token_id": self.token_ids[record.token],
                "text": self.tokens[record.token],
                "layer": layer_of(record.module),
            }
            for decisions in self.decisions
            for record in _records(decisions)
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
        shares = self.share(slot=slot)
        ranked = sorted(shares.items(), key=lambda item: -item[1])
        named = [{"adapter": name, "share": share} for name, share in ranked if name is not None]
        selection = self.plan.selection(slot)
        return {
            "router": repr(selection.router) if isinstance(selection, Routed) else None,
            "modules": len(self._of(slot)),
            "applied": _applied(shares),
            "entropy_bits": _entropy(shares),
            "adapters": named[:most],
        }

    def _of(self, slot: Slot | None) -> list[Decisions]:
        return [decisions for decisions in self.decisions if slot in (None, decisions.slot)]


def layer_of(module: str) -> int | None:
    """Returns the layer a module belongs to: the first number in its path, or None."""
    number = re.search(r"(?:^|\.)(\d+)(?:\.|$)", module)
    return int(number[1]) if number else None


def _group(decisions: Decisions, by: str) -> Hashable:
    if by == "layer":
        return layer_of(decisions.module)
    return getattr(decisions, by) if by in ("slot", "module") else None


def _counts(decisions: Decisions, *, by_token: bool) -> Iterator[tuple[int, str | None, float]]:
    """Yields a token (or 0), an adapter or None, and how many decisions it took; in row order."""
    sizes = decisions.weights.double().abs()  # (T, K)
    sizes[~sizes.any(-1), 0] = 1.0  # a token on the base is one decision of no adapter
    parts = sizes / sizes.sum(-1, keepdim=True)
    width = len(decisions.names) + 1
    cells = decisions.rows.masked_fill(decisions.weights == 0, NOT_APPLIED) + 1  # 0 is the base
    if by_token:
        cells = cells + width * torch.arange(len(cells)).unsqueeze(-1)
    cells, index = cells.unique(return_inverse=True)
    counts = torch.bincount(index.flatten(), parts.flatten())
    for cell, count in zip(cells.tolist(), counts.tolist(), strict=True):
        token, row = divmod(cell, width)
        if count:
            yield token, decisions.names[row - 1] if row else None, count


def _entropy(shares: Shares) -> float:
    return -sum(share * math.log2(share) for share in shares.values()) + 0.0


def _applied(shares: Shares) -> float:
    return sum(share for name, share in shares.items() if name is not None)


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
