"""A stack as the kernels read it: whole, on its device, at its stored precision."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch

from lag_engine.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from lag_engine.routing import Stack

ELEMENTS = (torch.float32, torch.bfloat16, torch.float16)
"""The dtypes the kernels read."""

CHUNK_ROWS = 256


class DeviceStack:
    """One module's adapters, factors included, in the memory of a device.

    Args:
        stack: not empty, and of dtypes that the kernels read.

    Attributes:
        arrow: (N, D_in).
        singular: (N, R) float32.
        A: (N, R, D_in).
        B: (N, R, D_out).

    Raises:
        ModelError: the device has no room for them.
    """

    def __init__(self, stack: Stack) -> None:
        self.singular = stack.singular.float().contiguous()
        self.n, self.rank = self.singular.shape
        try:
            self.A, self.B = self._all(stack.A), self._all(stack.B)
            self.arrow = self.A[:, 0].contiguous()
        except torch.OutOfMemoryError as error:
            raise ModelError(
                f"Expected room on {self.singular.device} for all factors of the library",
                f"Found none for a module's {self.n} adapters: {error}",
                "Unset LAG_KERNELS: PyTorch copies only the factors that tokens choose",
            ) from error
        self.d_in, self.d_out = self.A.shape[-1], self.B.shape[-1]

    def _all(self, read: Callable[[Tensor], Tensor]) -> Tensor:
        parts = [read(rows) for rows in torch.arange(self.n).split(CHUNK_ROWS)]
        return torch.cat(parts).contiguous()


_held: WeakKeyDictionary[Stack, DeviceStack | None] = WeakKeyDictionary()


def on_device(stack: Stack) -> DeviceStack | None:
    """Returns the stack for the kernels, made once; None where they cannot read it."""
    if stack not in _held:
        _held[stack] = DeviceStack(stack) if _is_readable(stack) else None
    return _held[stack]


def _is_readable(stack: Stack) -> bool:
    none = torch.empty(0, dtype=torch.long)
    dtypes = {stack.A(none).dtype, stack.B(none).dtype}
    return len(stack.singular) > 0 and dtypes <= set(ELEMENTS)
