"""How well an adapter suits an input: the four scores, always summed in float32 or better.

With ``A*`` an update's right singular vectors as orthonormal rows, ``S`` its singular values and
``z = A* x`` (LAG, arXiv 2507.05346, eq. 4-7; SpectR, arXiv 2504.03454; Arrow, arXiv 2405.11157):

arrow       |z[0]| = |a*.x|            the top direction alone
projection  ||z||                      LAG's and SpectR's published score: blind to S
norm        ||S z|| = ||delta_W x||    the size of the update itself
relative    ||S z|| / ||S||_F          the norm without its reward for being large
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

Score = Literal["arrow", "projection", "norm", "relative"]
SCORES: tuple[Score, ...] = get_args(Score)

ROUNDING_UNITS = 4.0
"""How many units of rounding, relative to ||x||, two equal scores may drift apart.

Two equal dot products of one input, summed in another order, differ by about one unit: half a unit
for each partial sum of a random walk (x is one vector, a* has norm 1).
"""


def accumulation_dtype(x: Tensor) -> torch.dtype:
    """Returns the dtype scores are summed in: float32, or float64 where the model is."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def arrow_scores(x: Tensor, arrow: Tensor) -> Tensor:
    """Returns |a*.x| of every adapter, for every input.

    Args:
        x: inputs of one module; (T, D_in).
        arrow: arrow vectors; (N, D_in).

    Returns:
        Scores; (T, N), float32 or better, non-negative.
    """
    dtype = accumulation_dtype(x)
    return (x.to(dtype) @ arrow.to(dtype).T).abs_()  # (T, N)


def rerank_scores(z: Tensor, singular: Tensor, score: Score) -> Tensor:
    """Returns the chosen score from projections that are already there.

    Args:
        z: A* x of each candidate; (..., R).
        singular: singular values, zero-padded, of each candidate; broadcastable to z.
        score: which of the four.

    Returns:
        Scores; (...), non-negative; 0 for an adapter whose update is zero (except `projection`
        and `arrow`, which do not see its size).
    """
    if score == "arrow":
        return z[..., 0].abs()
    if score == "projection":
        return _length(z)
    size = _length(z * singular)
    if score == "norm":
        return size
    frobenius = _length(singular)
    return torch.where(frobenius > 0, size / frobenius, 0.0)


def rounding_tolerance(x: Tensor) -> Tensor:
    """Returns the difference below which two arrow scores of one input count as equal; (T, 1)."""
    dtype = accumulation_dtype(x)
    length: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=dtype)
    return length * (ROUNDING_UNITS * torch.finfo(dtype).eps)


def rerank_tolerance(tolerance: Tensor, singular: Tensor, score: Score) -> Tensor:
    """Returns the difference below which two rerank scores of one input count as equal.

    Args:
        tolerance: of the arrow scores; (T, 1).
        singular: singular values of each candidate, descending; (..., R), its leading dimensions
            broadcastable to (T, K).
        score: which of the four.

    Returns:
        Tolerances; broadcastable to (T, K).
    """
    # A dimension of the update can stretch the error of z by its singular value, at most the first.
    return tolerance * singular[..., 0] if score == "norm" else tolerance


def _length(vectors: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(vectors, dim=-1)
    return length
