"""The largest scores, with equal scores decided by column: the lower column wins."""

from __future__ import annotations

import torch
from torch import Tensor


def top_columns(scores: Tensor, k: int, tolerance: Tensor) -> Tensor:
    """Returns the columns of the k largest scores of each row; of equal scores the lower column.

    `torch.topk` leaves open which of two equal scores it returns, and two equal products can differ
    by rounding when a matrix product computes them in different places. So scores within
    `tolerance` of the smallest one kept count as equal to it.

    Args:
        scores: (T, N); -inf marks what may not be chosen.
        k: how many; 1 <= k <= N.
        tolerance: difference that counts as none; broadcastable to (T, N), non-negative.

    Returns:
        Columns; (T, k) int64; in no guaranteed order.
    """
    if k == scores.shape[-1]:
        return _columns(scores)
    if k == 1:
        tied = scores + tolerance >= scores.amax(dim=-1, keepdim=True)
        return tied.int().argmax(dim=-1, keepdim=True)  # the first of equal ones
    top = scores.topk(k + 1, dim=-1)
    if not bool((top.values[:, k - 1] - top.values[:, k] <= _widest(tolerance)).any()):
        return top.indices[:, :k]
    return _break_ties(scores, top.values[:, k - 1 : k], tolerance, k)


def _break_ties(scores: Tensor, last: Tensor, tolerance: Tensor, k: int) -> Tensor:
    """Returns the k largest once everything within the tolerance of `last` equals it."""
    tied = (scores + tolerance >= last) & (scores - tolerance <= last)
    level = torch.where(tied, last, scores)
    return level.sort(dim=-1, descending=True, stable=True).indices[:, :k]


def _columns(like: Tensor) -> Tensor:
    return torch.arange(like.shape[-1], device=like.device).expand(like.shape)


def _widest(tolerance: Tensor) -> Tensor:
    """Returns each row's largest tolerance; broadcastable to (T,)."""
    return tolerance.amax(dim=-1) if tolerance.dim() else tolerance
