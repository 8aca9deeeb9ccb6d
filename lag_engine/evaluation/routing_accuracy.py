"""How often the gold adapter was the one selected, from traces, by slot, layer and module."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from lag_engine.routing.trace import layer_of

if TYPE_CHECKING:
    from lag_engine.model.generation import Generation
    from lag_engine.routing import Decisions


class Gold(NamedTuple):
    """The adapters that should have been chosen for one question.

    Attributes:
        task: names; empty if nobody knows.
        knowledge: names; empty if nobody knows.
    """

    task: tuple[str, ...]
    knowledge: tuple[str, ...]


class RoutingCount(NamedTuple):
    """Decisions of one module type in one layer, over several answers.

    Attributes:
        slot: "task" or "knowledge".
        layer: None for a module outside the numbered layers.
        module: the last part of its path.
        right: decisions for a gold adapter, of all tokens; where several adapters were mixed, the
            gold ones' share of the weight.
        total: decisions, of all tokens.
        decisive_right: as `right`, of the tokens that decide the answer: the prompt's last and
            each written one.
        decisive_total: as `total`, of these tokens.
    """

    slot: str
    layer: int | None
    module: str
    right: float
    total: int
    decisive_right: float
    decisive_total: int


def count_routing(
    answers: Iterable[Generation], gold: Sequence[Gold], *, slots: Sequence[str]
) -> list[RoutingCount]:
    """Counts the decisions of traced answers.

    Args:
        answers: with their traces.
        gold: for each answer.
        slots: only these; a slot whose gold is unknown is left out of an answer.
    """
    counts: dict[tuple[str, int | None, str], list[float]] = defaultdict(lambda: [0.0] * 4)
    for answer, names in zip(answers, gold, strict=True):
        assert answer.trace is not None
        start = len(answer.prompt_token_ids) - 1
        for decisions in answer.trace.decisions:
            wanted: tuple[str, ...] = getattr(names, decisions.slot)
            if decisions.slot not in slots or not wanted:
                continue
            shares = _gold_shares(decisions, wanted)
            module = decisions.module.rsplit(".", 1)[-1]
            held = counts[decisions.slot, layer_of(decisions.module), module]
            for i, part in enumerate((shares, shares[start:])):
                held[2 * i] += float(part.sum())
                held[2 * i + 1] += len(part)
    return [
        RoutingCount(*key, right, int(total), decisive, int(n_decisive))
        for key, (right, total, decisive, n_decisive) in counts.items()
    ]


def _gold_shares(decisions: Decisions, wanted: Sequence[str]) -> Tensor:
    """The gold adapters' share of each token's weight; 0 where nothing was applied; (T,)."""
    rows = [row for row, name in enumerate(decisions.names) if name in wanted]
    sizes = decisions.weights.double().abs()  # (T, K)
    right = sizes * torch.isin(decisions.rows, torch.tensor(rows, dtype=torch.long))
    return right.sum(-1) / sizes.sum(-1).clamp(min=1e-12)
