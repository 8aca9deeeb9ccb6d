"""The spectral form of a LoRA update: what routing reads and what generation adds.

Shape letters, used everywhere: `B` batch, `T` tokens, `N` adapters, `K` retrieved, `R` rank,
`D_in`, `D_out`, `L` layers. Knows tensors only: no files, no modules.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

# The largest condition, squared, that is squared; and what is then off at most, relative to one.
_LARGEST_SQUARE = 1e6
_LOST_TO_SQUARES = 1e-9


class SpectralForm(NamedTuple):
    """One update, or a stack of them, as `delta_W = B^T A` with orthonormal rows in `A`.

    Attributes:
        A: right singular vectors V^T; (..., R, D_in); row 0 is the arrow vector, sign arbitrary.
        B: (U S)^T; (..., R, D_out); row r is singular value r times left singular vector r.
        singular: (..., R); descending, not negative.
    """

    A: Tensor
    B: Tensor
    singular: Tensor

    @property
    def rank(self) -> int:
        """R; asked often, and a tensor is slow to tell its length."""
        return self.singular.shape[-1]


def to_spectral(
    lora_A: Tensor, lora_B: Tensor, scaling: float, *, dtype: torch.dtype = torch.float32
) -> SpectralForm:
    """Returns the exact thin SVD of `scaling * lora_B @ lora_A` (LAG eq. 1-5, arXiv 2507.05346).

    Alpha over rank is absent from the paper's equations; it is folded into `B` and `singular`, so
    that `A` stays orthonormal.

    Args:
        lora_A: (R, D_in).
        lora_B: (D_out, R).
        scaling: PEFT's factor of the update.
        dtype: of the result; the work is done in float64 whatever the input.

    Returns:
        The form with min(R, D_in, D_out) rows, on the device of `lora_A`.
    """
    scalings = torch.tensor([scaling], dtype=torch.float64, device=lora_A.device)  # (1,)
    stacked = to_spectral_batched(lora_A[None], lora_B[None], scalings, dtype=dtype)
    return SpectralForm(stacked.A[0], stacked.B[0], stacked.singular[0])


def to_spectral_batched(
    lora_A: Tensor, lora_B: Tensor, scaling: Tensor, *, dtype: torch.dtype = torch.float32
) -> SpectralForm:
    """Returns the spectral form of N updates of one shape, without forming `delta_W`.

    O(N (D_in + D_out) R^2) time, and memory of the factors in float64.

    Args:
        lora_A: (N, R, D_in).
        lora_B: (N, D_out, R).
        scaling: (N,).
        dtype: of the result; the work is done in float64 whatever the input.

    Returns:
        The stacked form; N and min(R, D_in, D_out) rows.
    """
    factors = lora_A.double(), lora_B.double(), scaling.double()[:, None, None]
    form = _of_squares(*factors) if torch.finfo(dtype).eps > _LOST_TO_SQUARES else None
    A, B, singular = form or _of_factors(*factors)
    return SpectralForm(A.to(dtype), B.to(dtype), singular.to(dtype))


def _of_squares(lora_A: Tensor, lora_B: Tensor, scaling: Tensor) -> SpectralForm | None:
    """The form from the eigenvectors of `delta_W^T delta_W` in the row space of lora_A.

    Takes half of a QR's time. But squares lose twice the digits: this is for well-conditioned
    updates and dtypes that do not show it.

    Returns:
        The form, off by `_LOST_TO_SQUARES` at most; None where an update is worse conditioned.
    """
    lower, failed = torch.linalg.cholesky_ex(lora_A @ lora_A.mT)  # lora_A = lower @ Q^T
    if bool(failed.any()):
        return None
    core = scaling * lower  # delta_W = lora_B @ core @ Q^T
    squares, turns = torch.linalg.eigh(core.mT @ (lora_B.mT @ lora_B) @ core)  # ascending
    squares, turns = squares.flip(-1), turns.flip(-1)  # (N, R), (N, R, R)
    inverse = torch.linalg.solve_triangular(lower.mT, turns, upper=True)
    # The turns are orthogonal: the inverse is as long as that of `lower`.
    worst = (lower.square().sum((1, 2)) * inverse.square().sum((1, 2))).amax()
    is_near = squares[:, 0] < _LARGEST_SQUARE * squares[:, -1]  # (N,)
    if not (bool(worst <= _LARGEST_SQUARE) and bool(is_near.all())):
        return None
    return SpectralForm(inverse.mT @ lora_A, (core @ turns).mT @ lora_B.mT, squares.sqrt())


def _of_factors(lora_A: Tensor, lora_B: Tensor, scaling: Tensor) -> SpectralForm:
    """The form from the Householder QR of both factors, then an R x R SVD."""
    right, left = torch.linalg.qr(lora_A.mT), torch.linalg.qr(lora_B)
    u, singular, vt = torch.linalg.svd(scaling * (left.R @ right.R.mT), full_matrices=False)
    return SpectralForm(vt @ right.Q.mT, (u * singular[:, None, :]).mT @ left.Q.mT, singular)


def truncate(form: SpectralForm, *, rank: int) -> SpectralForm:
    """Returns the best approximation of that rank (Eckart-Young): the first `rank` rows."""
    return SpectralForm(form.A[..., :rank, :], form.B[..., :rank, :], form.singular[..., :rank])


def rebuild(form: SpectralForm) -> Tensor:
    """Returns the dense update `delta_W = B^T A`; (..., D_out, D_in); for checks, not for use."""
    return form.B.mT @ form.A
