"""Collects what was chosen while a model runs; nobody pays for it while none is active."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from lag_engine.errors import ModelError

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


class _Piece(NamedTuple):
    """The tokens of some requests in one forward pass."""

    requests: tuple[int, ...]
    real: Tensor  # (b, T)
    rows: Tensor  # (b, T, K)
    scores: Tensor
    weights: Tensor


class Recorder:
    """Collects the choices of every module and slot, for every request of a batch.

    Call `expect` before a forward pass whose batch holds padding; tokens marked as padding are left
    out. One recorder serves one batch, from its prefill to its last token.
    """

    def __init__(self) -> None:
        self._real: Tensor | None = None
        self._names: dict[tuple[str, Slot], tuple[str, ...]] = {}
        self._pieces: dict[tuple[str, Slot], list[_Piece]] = {}

    def expect(self, real: Tensor | None) -> None:
        """Says which positions of the next forward passes hold a token.

        Args:
            real: (B, T), non-zero for a token and zero for padding; None when all are tokens.
        """
        self._real = None if real is None else real.bool().cpu()

    def record(
        self,
        module: str,
        slot: Slot,
        names: tuple[str, ...],
        *,
        requests: tuple[int, ...],
        rows: Tensor,
        scores: Tensor,
        weights: Tensor,
    ) -> None:
        """Keeps one module's choice for some requests of the running forward pass.

        Args:
            module: full dotted path.
            slot: the slot that chose.
            names: the adapters of the module's stack, by row.
            requests: batch rows; b of them.
            rows: (b, T, K).
            scores: (b, T, K).
            weights: (b, T, K).

        Raises:
            ModelError: the module sees other positions than the batch has, as a layer of experts
                does; its choices cannot be told by token.
        """
        if self._real is not None and self._real.shape[1] != rows.shape[1]:
            raise ModelError(
                f"Expected {module!r} to see the {self._real.shape[1]} positions of the batch",
                f"Found {rows.shape[1]}: its choices cannot be told by token",
                "Run without a trace, or keep this module out of the library",
            )
        kept = (part.detach().to("cpu", copy=True) for part in (rows, scores, weights))
        self._names[module, slot] = names
        real = torch.ones(rows.shape[:2], dtype=torch.bool)
        if self._real is not None:
            real = self._real[list(requests)]
        self._pieces.setdefault((module, slot), []).append(_Piece(requests, real, *kept))

    def decisions(self, request: int) -> list[Decisions]:
        """Returns what was recorded for one row of the batch, in the order modules first ran."""
        found = []
        for (module, slot), pieces in self._pieces.items():
            mine = [piece for piece in pieces if request in piece.requests]
            if mine:
                real, *kept = _joined(mine, request)
                names = self._names[module, slot]
                found.append(Decisions(module, slot, names, *(part[real] for part in kept)))
        return found


def _joined(pieces: list[_Piece], request: int) -> Iterator[Tensor]:
    """Yields which tokens of one request are real, (T,), and its rows, scores, weights; (T, K)."""
    at = [piece.requests.index(request) for piece in pieces]
    for parts in list(zip(*pieces, strict=True))[1:]:
        yield torch.cat([part[i] for part, i in zip(parts, at, strict=True)])
