"""The spectral form of a LoRA update: what routing reads and what generation adds.

Shape letters, used everywhere: `B` batch, `T` tokens, `N` adapters, `K` retrieved, `R` rank,
`D_in`, `D_out`, `L` layers. Knows tensors only: no files, no modules.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_LARGEST_CONDITION = 1e4


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
    """Returns the spectral form of N updates of one shape: QR of both factors, then an RxR SVD.

    Never forms `delta_W`: O(N (D_in + D_out) R^2) time, and memory of the factors in float64.

    Args:
        lora_A: (N, R, D_in).
        lora_B: (N, D_out, R).
        scaling: (N,).
        dtype: of the result; the work is done in float64 whatever the input.

    Returns:
        The stacked form; N and min(R, D_in, D_out) rows.
    """
    right, left = _Orthonormal(lora_A.double().mT), _Orthonormal(lora_B.double())
    core = scaling.double()[:, None, None] * (left.r @ right.r.mT)  # (N, R, R)
    u, singular, vt = torch.linalg.svd(core, full_matrices=False)
    a = right.rows(vt)  # (N, R, D_in)
    b = left.rows((u * singular[:, None, :]).mT)  # (N, R, D_out)
    return SpectralForm(a.to(dtype), b.to(dtype), singular.to(dtype))


class _Orthonormal:
    """The Householder QR of N matrices; Q is formed only where R is near singular.

    Args:
        matrices: (N, D, R) float64.

    Attributes:
        r: (N, min(D, R), R).
    """

    def __init__(self, matrices: Tensor) -> None:
        self._matrices = matrices
        self._packed, self._scalars = torch.geqrf(matrices)
        self.r = self._packed[:, : matrices.shape[2]].triu()

    def rows(self, mix: Tensor) -> Tensor:
        """Returns `mix @ Q^T`; mix is (N, R, min(D, R))."""
        inverse = self._inverse()
        if inverse is not None:
            # Half of a QR's work is forming Q, which here is the matrix times the inverse of R.
            return (mix @ inverse.mT) @ self._matrices.mT
        narrow = self._packed[..., : mix.shape[-1]]
        q: Tensor = torch.linalg.householder_product(narrow, self._scalars)  # (N, D, R)
        return mix @ q.mT

    def _inverse(self) -> Tensor | None:
        """The inverse of R; None where it would cost more than four of float64's sixteen digits."""
        if self.r.shape[1] != self.r.shape[2]:
            return None
        identity = torch.eye(self.r.shape[1], dtype=self.r.dtype, device=self.r.device)
        inverse = torch.linalg.solve_triangular(self.r, identity.expand_as(self.r), upper=True)
        condition = torch.linalg.matrix_norm(self.r) * torch.linalg.matrix_norm(inverse)  # (N,)
        return inverse if bool((condition <= _LARGEST_CONDITION).all()) else None


def truncate(form: SpectralForm, *, rank: int) -> SpectralForm:
    """Returns the best approximation of that rank (Eckart-Young): the first `rank` rows."""
    return SpectralForm(form.A[..., :rank, :], form.B[..., :rank, :], form.singular[..., :rank])


def rebuild(form: SpectralForm) -> Tensor:
    """Returns the dense update `delta_W = B^T A`; (..., D_out, D_in); for checks, not for use."""
    return form.B.mT @ form.A
