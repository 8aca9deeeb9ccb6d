"""Collects what was chosen while a model runs; nobody pays for it while none is active."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lag_engine.routing.selections import Slot


class Decisions(NamedTuple):
    """What one module chose in one slot, for the tokens of one request.

    Attributes:
        module: full dotted path.
        slot: "task" or "knowledge".
        names: the adapters of the module's stack, by row.
        rows: (T, K) int64; -1 where nothing is applied.
        scores: (T, K); the deciding score; NaN where the adapter was pinned.
        weights: (T, K); routing weights; 0 where nothing is applied.
    """

    module: str
    slot: Slot
    names: tuple[str, ...]
    rows: Tensor
    scores: Tensor
    weights: Tensor


class Recorder:
    """Collects the choices of every module and slot for one request, from its prefill on."""

    def __init__(self) -> None:
        self._names: dict[tuple[str, Slot], tuple[str, ...]] = {}
        self._pieces: dict[tuple[str, Slot], list[tuple[Tensor, Tensor, Tensor]]] = {}

    def record(
        self,
        module: str,
        slot: Slot,
        names: tuple[str, ...],
        rows: Tensor,
        scores: Tensor,
        weights: Tensor,
    ) -> None:
        """Keeps one module's choice for the request's next tokens.

        Args:
            module: full dotted path.
            slot: the slot that chose.
            names: the adapters of the module's stack, by row.
            rows: (T, K).
            scores: (T, K).
            weights: (T, K).
        """
        self._names[module, slot] = names
        self._pieces.setdefault((module, slot), []).append(
            (_kept(rows), _kept(scores), _kept(weights))
        )

    def decisions(self) -> list[Decisions]:
        """Returns what was recorded, in the order modules first ran."""
        return [
            Decisions(module, slot, self._names[module, slot], *_joined(pieces))
            for (module, slot), pieces in self._pieces.items()
        ]


def _kept(part: Tensor) -> Tensor:
    return part.detach().to("cpu", copy=True)


def _joined(pieces: list[tuple[Tensor, Tensor, Tensor]]) -> Iterator[Tensor]:
    return (torch.cat(parts) for parts in zip(*pieces, strict=True))
