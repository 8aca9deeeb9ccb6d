"""Routing among adapters that share their inputs: behind `basis @ x` they are R wide.

A router, a form and the compiled operator see the same adapters with another input, `basis @ x`, so
every score and every update is the same up to rounding, and none of them knows of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lag_engine.routing.scores import accumulation_dtype

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from lag_engine.routing import Fused, Update


def behind(basis: Tensor | None, x: Tensor) -> Tensor:
    """Returns what a stack over a basis sees of inputs; x itself where there is none.

    Args:
        basis: (R, D_in).
        x: (..., D_in).

    Returns:
        (..., R) or (..., D_in).
    """
    if basis is None:
        return x
    dtype = accumulation_dtype(x)
    return x.to(dtype) @ basis.to(dtype).T


class SharedFused:
    """A routing call over the adapters of a family; see `Fused`.

    Args:
        fused: the call over what they are behind the basis.
        basis: (R, D_in).
    """

    def __init__(self, fused: Fused, basis: Tensor) -> None:
        self.fused, self._basis = fused, basis

    @property
    def stack(self) -> object:
        """Calls over the same one can be made together."""
        return self.fused.stack

    @property
    def width(self) -> int:
        """How many adapters a token can have."""
        return self.fused.width

    def update(
        self, x: Tensor, *, others: Sequence[SharedFused] = (), owners: Tensor | None = None
    ) -> Update | None:
        """Returns the update of every token; x is (T, D_in)."""
        inner = [other.fused for other in others]
        return self.fused.update(behind(self._basis, x), others=inner, owners=owners)

    def added(
        self,
        out: Tensor,
        x: Tensor,
        *,
        others: Sequence[SharedFused] = (),
        owners: Tensor | None = None,
    ) -> Tensor | None:
        """Returns `out` plus the update of every token; x is (..., D_in)."""
        inner = [other.fused for other in others]
        return self.fused.added(out, behind(self._basis, x), others=inner, owners=owners)
