"""Which passages train together: those with as many steps, as many as memory holds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from lag_engine.documents.passages import Passage
from lag_engine.documents.sequences import TrainingSequence
from lag_engine.documents.training import StackedBatch

# A factor, its gradient, and two moments, in float32.
_BYTES_PER_WEIGHT = 16


class Work(NamedTuple):
    """A passage that is ready to be trained.

    Attributes:
        passage: What is encoded.
        sequences: Its training rows.
        seed: Of its adapter's start.
        revision: Of the adapter to come.
    """

    passage: Passage
    sequences: Sequence[TrainingSequence]
    seed: int
    revision: str

    @property
    def longest(self) -> int:
        """The tokens of its longest sequence."""
        return max(len(sequence.ids) for sequence in self.sequences)


class MemoryBound(NamedTuple):
    """What a group may take, by an estimate from the model's shapes.

    Attributes:
        n_bytes: In all, besides the model itself.
        per_adapter: Bytes of one adapter's factors, gradients and moments.
        per_token: Bytes of one token's activations and logits, kept for the backward pass.
    """

    n_bytes: float
    per_adapter: int
    per_token: int

    @classmethod
    def of(cls, model: nn.Module, targets: Sequence[str], rank: int, n_bytes: float) -> MemoryBound:
        """Estimates from the linear modules' widths: inputs, outputs and updates in float32."""
        adapted: list[Any] = [model.get_submodule(name) for name in targets]
        weights = sum(rank * (m.in_features + m.out_features) for m in adapted)
        linear = [m for m in model.modules() if isinstance(m, nn.Linear)]
        floats = sum(m.in_features + 2 * m.out_features for m in linear)
        return cls(n_bytes, weights * _BYTES_PER_WEIGHT, 4 * floats)

    def holds(self, count: int, rows: int, longest: int) -> bool:
        """Whether so many adapters with batches of so many rows fit."""
        return count * (self.per_adapter + rows * longest * self.per_token) <= self.n_bytes


def groups(
    work: Iterable[Work], bound: MemoryBound, *, rows: int, largest: int
) -> list[list[Work]]:
    """Divides work into groups, each to be trained in one stack.

    Members of a group have equally many sequences, so that all take the same steps, and similar
    lengths, so that little is padding. What is left after some first groups are done is divided as
    before: so training that was interrupted goes on with the same groups.

    Args:
        work: Passages to train.
        bound: Of memory; a passage that exceeds it alone is a group.
        rows: Sequences of each adapter in one step.
        largest: Most members of a group.
    """
    made: list[list[Work]] = []
    for item in sorted(work, key=lambda item: (len(item.sequences), item.longest)):
        group = made[-1] if made else []
        fits = (
            group
            and len(group) < largest
            and len(group[0].sequences) == len(item.sequences)
            and bound.holds(len(group) + 1, rows, item.longest)
        )
        if fits:
            group.append(item)
        else:
            made.append([item])
    return made


def batches_of(group: Sequence[Work], *, rows: int, pad: int) -> list[StackedBatch]:
    """One epoch's steps: each adapter's sequences in order, `rows` at a time."""
    n_sequences = len(group[0].sequences)
    return [
        _stack([item.sequences[start : start + rows] for item in group], pad)
        for start in range(0, n_sequences, rows)
    ]


def _stack(groups: Sequence[Sequence[TrainingSequence]], pad: int) -> StackedBatch:
    """Pads G lists of B sequences to one batch (G, B, T)."""
    count, rows = len(groups), len(groups[0])
    length = max(len(row.ids) for group in groups for row in group)
    ids = torch.full((count, rows, length), pad)
    weights = torch.zeros(count, rows, length)
    for g, group in enumerate(groups):
        for b, row in enumerate(group):
            ids[g, b, : len(row.ids)] = torch.tensor(row.ids)
            weights[g, b, row.n_prompt : len(row.ids)] = 1.0
    return StackedBatch(ids, weights, torch.zeros_like(ids, dtype=torch.bool))
