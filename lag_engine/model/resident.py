"""One module's adapters where the module is, as routers and products read them."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch import Tensor

from lag_engine.model.kernels.stacks import CompiledStack, is_readable
from lag_engine.routing import Stack

if TYPE_CHECKING:
    from lag_engine.adapters.stack import Places


class NamedStack(Stack, Protocol):
    """A stack that knows its adapters' names, as the library hands it out."""

    @property
    def names(self) -> tuple[str, ...]:
        """The adapter of each row."""
        ...


class ResidentStack:
    """One module's stack on the module's device.

    The arrow vectors and singular values stay there in float32, as they are read for every token,
    or, where the compiled operator reads them, as they are stored; factors are gathered from the
    library's memory-mapped blocks and copied, a few rows at a time.

    Attributes:
        names: the adapter of each row.
        row_of: the row of each adapter.
        singular: (N, R).
        device: the module's.
    """

    def __init__(self, stack: NamedStack, device: torch.device) -> None:
        self.names = tuple(stack.names)
        self.row_of = {name: row for row, name in enumerate(self.names)}
        self.singular = _resident(stack.singular, device)
        self.device = device
        self._stack = stack

    @cached_property
    def dtype(self) -> torch.dtype:
        """The dtype of its weights and arrow vectors there."""
        return _wide(self._stack.B(torch.empty(0, dtype=torch.long)).dtype)

    @cached_property
    def shared(self) -> SharedInputs | None:
        """The same adapters over the basis that all of them share; None where they do not."""
        found = getattr(self._stack, "shared", None)
        if found is None:
            return None
        return SharedInputs(
            _resident(found.basis, self.device), MemberStack(found.stack, self.device)
        )

    @cached_property
    def arrow(self) -> Tensor:
        """Arrow vectors; (N, D_in), contiguous."""
        return _resident(self._stack.arrow, self.device)

    @cached_property
    def compiled(self) -> CompiledStack | None:
        """The same stack for the compiled operator; None where that cannot read it in place."""
        places: Places | None = getattr(self._stack, "places", None)
        if places is None or self.device.type != "cpu" or not is_readable(places):
            return None
        return CompiledStack(self._stack, places)

    def A(self, rows: Tensor) -> Tensor:
        """Returns A* of these rows; (*rows.shape, R, D_in)."""
        return self._stack.A(rows.cpu()).to(self.device)

    def B(self, rows: Tensor) -> Tensor:
        """Returns B* of these rows; (*rows.shape, R, D_out)."""
        return self._stack.B(rows.cpu()).to(self.device)

    def gathered(self, rows: Tensor) -> Stack:
        """Returns a few rows, factors included, as a stack of their own; rows is (K,)."""
        A = self.A(rows)  # (K, R, D_in)
        return _Gathered(A[:, 0], self.singular[rows], A, self.B(rows))


class SharedInputs(NamedTuple):
    """The adapters of a family as what they are behind `basis @ x`.

    Attributes:
        basis: (R, D_in).
        stack: the same adapters in the same rows, with an input width of R.
    """

    basis: Tensor
    stack: MemberStack


class MemberStack(ResidentStack):
    """The members of a family over their basis: their A* are so small that they stay resident."""

    @cached_property
    def _rows(self) -> Tensor:
        return torch.arange(len(self.names), device=self.device)

    @cached_property
    def _turns(self) -> Tensor:
        """All A*; (N, R, R), laid out for products with all of them at once."""
        turns = _resident(self._stack.A(self._rows.cpu()), self.device)
        lines: Tensor = turns.flatten(0, 1).T.contiguous()  # (R, N * R)
        return lines.T.view(turns.shape)

    def A(self, rows: Tensor) -> Tensor:
        """Returns A* of these rows over the basis; (*rows.shape, R, R); a view for all rows."""
        rows = rows.to(self.device)
        return self._turns if torch.equal(rows, self._rows) else self._turns[rows]


class _Gathered:
    def __init__(self, arrow: Tensor, singular: Tensor, A: Tensor, B: Tensor) -> None:
        self.arrow, self.singular = arrow, singular
        self._A, self._B = A, B

    def A(self, rows: Tensor) -> Tensor:
        return self._A[rows]

    def B(self, rows: Tensor) -> Tensor:
        return self._B[rows]


def _resident(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor.to(device, _wide(tensor.dtype)).contiguous()


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32
