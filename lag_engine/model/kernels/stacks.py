"""A stack as the compiled operator reads it."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lag_engine.model.kernels.compact import reach, to_codes, to_halves
from lag_engine.model.kernels.structs import ELEMENTS, StackStruct

if TYPE_CHECKING:
    from lag_engine.adapters.stack import Places
    from lag_engine.routing import Stack

FEW_ROWS = 96
"""Up to here all arrow vectors are scored exactly at once: compact ones would drop too few."""

MANY_TOKENS = 3
"""From here bfloat16 vectors are scanned, which many tokens share; int8 ones before (route.cpp)."""


class CompiledStack:
    """One module's adapters on the CPU, for the operator; keeps everything it points to alive.

    Args:
        stack: its arrow vectors as they are stored; what `is_readable` accepts.
        places: where the factors lie.
    """

    def __init__(self, stack: Stack, places: Places) -> None:
        arrow, singular = stack.arrow, stack.singular
        self.n, self.d_in = arrow.shape
        self.d_out = stack.B(torch.empty(0, dtype=torch.long)).shape[-1]
        self._stack = stack  # its memory is pointed to
        self._kept = {
            "arrow": arrow.contiguous(),
            "singular": singular.float().contiguous(),
            "A": places.A.contiguous(),
            "B": places.B.contiguous(),
            "ranks": places.ranks.contiguous(),
        }
        self.struct = StackStruct(
            n=self.n,
            d_in=self.d_in,
            d_out=self.d_out,
            rank=singular.shape[1],
            arrow_element=ELEMENTS[arrow.dtype],
            factor_element=ELEMENTS[places.dtype],
            reach=reach(arrow),
            **{name: tensor.data_ptr() for name, tensor in self._kept.items()},
        )
        self.address = ctypes.pointer(self.struct)

    def prepare(self, n_tokens: int) -> None:
        """Makes the compact vectors that a scan of so many tokens reads, once."""
        if self.n <= FEW_ROWS:
            return
        if n_tokens < MANY_TOKENS and not self.struct.codes:
            found = to_codes(self._kept["arrow"])
            self._point("codes", found.codes, "scales", found.scales, "code_errors", found.errors)
            self.struct.code_stride = found.codes.shape[1]
        if n_tokens >= MANY_TOKENS and not self.struct.halves:
            halves = to_halves(self._kept["arrow"])
            self._point("halves", halves.halves, "half_errors", halves.errors)
            self.struct.half_stride = halves.halves.shape[1]

    def _point(self, *parts: str | Tensor) -> None:
        for name, tensor in zip(parts[::2], parts[1::2], strict=True):
            assert isinstance(name, str)
            assert isinstance(tensor, Tensor)
            self._kept[name] = tensor
            setattr(self.struct, name, tensor.data_ptr())


def is_readable(stack: Stack, places: Places) -> bool:
    """Whether the operator can read such a stack."""
    return len(stack.arrow) > 0 and stack.arrow.dtype in ELEMENTS and places.dtype in ELEMENTS
