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
        return best_column(scores, _columns(scores), tolerance)
    top = scores.topk(k + 1, dim=-1)
    columns, last = top.indices[:, :k], top.values[:, k - 1 : k]
    tied = (last - top.values[:, k:] <= tolerance).any(dim=-1)  # (T,)
    if bool(tied.any()):
        near = tolerance.expand_as(scores)[tied]
        columns[tied] = _break_ties(scores[tied], last[tied], near, k)
    return columns


def best_column(scores: Tensor, rows: Tensor, tolerance: Tensor) -> Tensor:
    """Returns the column of the largest score; of equal scores that with the lowest row; (T, 1).

    Args:
        scores: (T, K).
        rows: what each column stands for; (T, K).
        tolerance: as for `top_columns`.
    """
    tied = scores + tolerance >= scores.amax(dim=-1, keepdim=True)
    return torch.where(tied, rows, torch.iinfo(rows.dtype).max).argmin(dim=-1, keepdim=True)


def _break_ties(scores: Tensor, last: Tensor, tolerance: Tensor, k: int) -> Tensor:
    """Returns the k largest once everything within the tolerance of `last` equals it."""
    tied = (scores + tolerance >= last) & (scores - tolerance <= last)
    level = torch.where(tied, last, scores)
    return level.sort(dim=-1, descending=True, stable=True).indices[:, :k]


def _columns(like: Tensor) -> Tensor:
    return torch.arange(like.shape[-1], device=like.device).expand(like.shape)
