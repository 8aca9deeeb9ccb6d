"""The coarse indices over arrow vectors that are compared: which rows each scores exactly.

Shares count bytes, and 1 is a scan of the vectors in float32.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

DIMENSIONS = (8, 4, 2)
"""The sketch has the width over these."""

OVERFETCH = (64, 256)
LISTS = 64
PROBES = (4, 16, 32)
WINDOWS = (1.0, 1.5, 2.0)
"""Widths of the four bits' window in standard deviations; the operator's is the last."""


class Found(NamedTuple):
    """What an index reads for some tokens.

    Attributes:
        index: its name.
        share: of the bytes.
        kept: the rows that are scored exactly; (T, N) bool.
    """

    index: str
    share: float
    kept: Tensor


def indexes(x: Tensor, arrow: Tensor, other: Tensor, k: int) -> Iterator[Found]:
    """Yields what each index finds.

    Args:
        x: inputs; (T, D).
        arrow: (N, D).
        other: inputs that an index may learn from; (T', D).
        k: how many rows are wanted.
    """
    width = x.shape[1]
    yield _rounded("int8, exact", x, arrow, 8, math.sqrt(width), k)
    for window in WINDOWS:
        yield _rounded(f"4 bits, {window:g} sd", x, arrow, 4, window, k)
    yield from _sketches(x, arrow, other)
    yield from _lists(x, arrow)


def _rounded(name: str, x: Tensor, arrow: Tensor, bits: int, window: float, k: int) -> Found:
    """Scores vectors of few bits, and again what rounding could lift among the k best.

    The product of what was rounded away and of x has |lost| |x| / sqrt(D) as its standard
    deviation where the two are independent, and sqrt(D) times that as its bound.
    """
    scales = arrow.abs().amax(-1, keepdim=True) / (2 ** (bits - 1) - 1)
    rounded = torch.where(scales > 0, (arrow / scales).round() * scales, 0)
    lost, lengths = (arrow - rounded).norm(dim=-1), x.norm(dim=-1, keepdim=True)
    scores = (x @ rounded.T).abs()  # (T, N)
    off = window / math.sqrt(x.shape[1]) * lengths * lost  # (T, N)
    needed = (scores - off).topk(min(k, len(arrow))).values[:, -1:]
    kept = scores + off >= needed * (1 - 1e-6)
    line = bits / 32 + 2 / x.shape[1]  # with its scale and |lost|
    return Found(name, line + float(kept.float().mean()), kept)


def _sketches(x: Tensor, arrow: Tensor, other: Tensor) -> Iterator[Found]:
    """Scores all vectors in the leading directions of other inputs, and the best again."""
    directions = torch.linalg.svd(other, full_matrices=False)[2]
    n, width = arrow.shape
    for part in DIMENSIONS:
        basis = directions[: width // part]  # (d, D)
        coarse = ((x @ basis.T) @ (arrow @ basis.T).T).abs()
        for m in OVERFETCH:
            if m < n:
                kept = torch.zeros_like(coarse, dtype=torch.bool)
                kept.scatter_(1, coarse.topk(m).indices, True)
                yield Found(f"sketch D/{part}, {m}", 1 / part + m / n, kept)


def _lists(x: Tensor, arrow: Tensor) -> Iterator[Found]:
    """Scores the vectors in the nearest of the clusters."""
    lists, centres = _clusters(arrow)
    near = (x @ centres.T).abs().argsort(1, descending=True)  # (T, LISTS)
    for probes in PROBES:
        probed = torch.zeros(len(x), LISTS, dtype=torch.bool).scatter(1, near[:, :probes], True)
        kept = probed[:, lists]
        share = float(kept.float().mean()) + LISTS / len(arrow)
        yield Found(f"lists {probes} of {LISTS}", share, kept)


def _clusters(arrow: Tensor, rounds: int = 15) -> tuple[Tensor, Tensor]:
    """Spherical k-means up to sign; returns each vector's list and the centres."""
    centres = arrow[torch.randperm(len(arrow))[:LISTS]].clone()
    for _ in range(rounds):
        scores = arrow @ centres.T  # (N, LISTS)
        lists = scores.abs().argmax(1)
        signs = scores.gather(1, lists[:, None]).sign()
        sums = torch.zeros_like(centres).index_add(0, lists, arrow * signs)
        centres = torch.where(
            sums.any(1, keepdim=True), torch.nn.functional.normalize(sums), centres
        )
    return (arrow @ centres.T).abs().argmax(1), centres
