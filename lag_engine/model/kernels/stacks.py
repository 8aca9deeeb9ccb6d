"""A stack as the compiled operator reads it."""

from __future__ import annotations

import ctypes
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from lag_engine.model.kernels.build import build
from lag_engine.model.kernels.memory import large_pages
from lag_engine.model.kernels.structs import ELEMENTS, StackStruct

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from lag_engine.adapters.stack import Places
    from lag_engine.routing import Stack

FEW_ROWS = 96
"""Up to here all arrow vectors are scored exactly at once: compact ones would drop too few."""

MANY_TOKENS = 3
"""From here bfloat16 vectors are scanned, which many tokens share; int8 ones before (route.cpp)."""

MANY_ROWS = 512
MANY_INPUTS = 256
"""From here on both sides an approximate scan of four bits saves time (`coarse.h`)."""

LINE = 32
"""Compact vectors are padded to a multiple of so many elements."""


class CompiledStack:
    """One module's adapters on the CPU, for the operator; keeps everything it points to alive.

    What it reads of them stays where it is, and is read there: compact arrow vectors are all that
    is made, when a call first needs them.

    Args:
        stack: the adapters; what `is_readable` accepts.
        places: where their factors and arrow vectors lie.

    Attributes:
        route: the operator; see `slot.Joined`.
        is_bounded: some files that factors lie in are held within bounds.
        reads_nibbles: whether approximate calls read four bits; others are exact.
    """

    def __init__(self, stack: Stack, places: Places) -> None:
        nothing = torch.empty(0, dtype=torch.long)
        self.n = len(places.A)
        self.d_in, self.d_out = (of(nothing).shape[-1] for of in (stack.A, stack.B))
        self._stack = stack  # its memory is pointed to
        self._files = places.files
        self.is_bounded = any(file.is_bounded for file in places.files)
        loaded = build().loaded
        assert loaded is not None
        self._loaded, self.route = loaded, loaded.lag_route
        self._kept: dict[str, Tensor] = {}
        element = ELEMENTS[places.dtype]
        self.struct = StackStruct(
            n=self.n,
            d_in=self.d_in,
            d_out=self.d_out,
            rank=stack.singular.shape[1],
            arrow_element=element,
            factor_element=element,
            is_announced=self.is_bounded,
        )
        self._point(
            singular=stack.singular.float(),
            **{name: getattr(places, name) for name in ("A", "B", "arrow", "ranks")},
        )
        self._address = ctypes.addressof(self.struct)
        with self._scanned():
            self.struct.reach = loaded.lag_reach(self._address)
        is_large = self.n >= MANY_ROWS and self.d_in >= MANY_INPUTS
        self.reads_nibbles = is_large and bool(loaded.lag_reads_nibbles())

    def prepare(self, n_tokens: int, *, is_approximate: bool = False) -> None:
        """Makes the compact vectors that a scan of so many tokens reads, once."""
        if self.n <= FEW_ROWS:
            return
        if n_tokens < MANY_TOKENS and is_approximate and self.reads_nibbles:
            if not self.struct.nibbles:
                self._make_nibbles()
        elif n_tokens < MANY_TOKENS and not self.struct.codes:
            self._make_codes()
        if n_tokens >= MANY_TOKENS and not self.struct.halves:
            self._make_halves()

    def trim(self) -> None:
        """Keeps what is held of mapped files within their bound; due after every call."""
        self._files[0].trim()  # one bound for all of them

    def _make_codes(self) -> None:
        stride = self.struct.code_stride = _padded(self.d_in)
        codes = large_pages((self.n, stride), torch.int8)
        scales, errors = self._compact(self._loaded.lag_codes, codes)
        self._point(scales=scales, code_errors=errors, codes=codes)

    def _make_nibbles(self) -> None:
        stride = self.struct.nibble_stride = (self.d_in + 127) // 128 * 64
        nibbles = large_pages((self.n, stride), torch.uint8)
        scales, errors = self._compact(self._loaded.lag_nibbles, nibbles)
        self._point(nibble_scales=scales, nibble_errors=errors, nibbles=nibbles)

    def _compact(self, write: Callable[..., None], lines: Tensor) -> tuple[Tensor, Tensor]:
        """Fills lines (N, stride); returns what a step of each is worth, and its error; (N,)."""
        scales, errors = torch.empty(self.n), torch.empty(self.n)
        numbers = (lines.data_ptr(), lines.shape[1], scales.data_ptr(), errors.data_ptr())
        with self._scanned():
            write(self._address, torch.get_num_threads(), *numbers)
        return scales, errors

    @contextmanager
    def _scanned(self) -> Iterator[None]:
        """All arrow vectors are read, and from then on hardly one."""
        for file in self._files:
            file.read_ahead()
        yield
        for file in self._files:
            file.let_go()

    def _make_halves(self) -> None:
        stride = self.struct.half_stride = _padded(self.d_in)
        if self.struct.arrow_element == ELEMENTS[torch.bfloat16] and stride == self.d_in:
            self._point(halves=self._kept["arrow"])
            return
        halves = large_pages((self.n, stride), torch.bfloat16)
        errors = torch.empty(self.n)
        numbers = (halves.data_ptr(), stride, errors.data_ptr())
        self._loaded.lag_halves(self._address, torch.get_num_threads(), *numbers)
        lines = halves.data_ptr() + stride * halves.itemsize * torch.arange(self.n)
        self._kept["half_lines"] = halves
        self._point(half_errors=errors, halves=lines)

    def _point(self, **parts: Tensor) -> None:
        for name, part in parts.items():
            self._kept[name] = part.contiguous()
            setattr(self.struct, name, self._kept[name].data_ptr())


def is_readable(places: Places) -> bool:
    """Whether the operator can read adapters that lie there."""
    return len(places.A) > 0 and places.dtype in ELEMENTS


def _padded(width: int) -> int:
    return width + -width % LINE
