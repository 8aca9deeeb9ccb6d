"""How the factors of a mapped file are read: all rows of a product at once, mapped or copied.

The system's page cache is the cache of factors: it keeps what was used last, shares it between
processes and gives it up when memory is short. What it cannot know is which rows come next: a page
that nobody announced is read by a fault of its own, one after the other.
"""

from __future__ import annotations

import mmap
import os
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lag_engine.adapters.held_pages import HeldPages, let_go

# Linux refuses a private map larger than memory without it; Python names it from 3.13 on.
_NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)

# After so many more the first ones may be gone from memory, and are asked for again.
_PAGES_KEPT = os.sysconf("SC_PHYS_PAGES") // 2 if hasattr(os, "sysconf") else 1 << 20


class FactorFile:
    """A file of factors; readable after it was unlinked, for as long as this lives.

    Args:
        path: the file.
        is_mapped: whether factors are read through the map, whose pages then count as this
            process's memory until the system wants them back; else they are copied from the file.
        held: bounds what this process holds of this file and others; None for no bound.

    Attributes:
        map: the whole file; nothing is written to it, which torch would rather have writable.
        is_mapped: as given.

    Raises:
        OSError: the file is missing or empty.
    """

    def __init__(self, path: Path, *, is_mapped: bool, held: HeldPages | None = None) -> None:
        self.is_mapped = is_mapped
        self._held = held
        self._handle = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        weakref.finalize(self, os.close, self._handle)
        self.map = _map(self._handle)
        self._is_asked = np.zeros(len(self.map) // mmap.PAGESIZE + 1, dtype=bool)
        self._n_asked = 0  # pages
        self._address = torch.frombuffer(self.map, dtype=torch.uint8, count=1).data_ptr()
        if held is not None:
            held.watch(self.map)

    def expect(self, factors: Tensor, rows: Tensor) -> None:
        """Has rows of a factor fetched from disk, without waiting for them.

        Args:
            factors: (n, ...), a view of the map; each row contiguous.
            rows: (m,) long; each in [0, n).
        """
        if not len(rows) or not hasattr(mmap, "MADV_WILLNEED"):
            return
        starts, width = self._places(factors, rows)
        first, last = starts // mmap.PAGESIZE, (starts + width - 1) // mmap.PAGESIZE
        # Neighbours may share the pages at either end, but not the one in the middle.
        fresh = ~(self._is_asked[(first + last) // 2] & self._is_asked[last])
        if fresh.any():
            self._ask(first[fresh], last[fresh])

    def read(self, factors: Tensor, rows: Tensor) -> Tensor:
        """Returns a copy of rows of a factor; as for `expect`; (m, ...)."""
        self.expect(factors, rows)
        if self.is_mapped or not hasattr(os, "preadv"):
            found = factors.index_select(0, rows)
            self.trim()
            return found
        starts, width = self._places(factors, rows)
        found = torch.empty((len(rows), *factors.shape[1:]), dtype=factors.dtype)
        into = found.view(len(rows), -1).view(torch.uint8).numpy()  # (m, width)
        for row, start in enumerate(starts.tolist()):
            n_bytes = os.preadv(self._handle, [into[row]], start)
            assert n_bytes == width, f"{n_bytes} of {width} bytes were read"
        return found

    def trim(self) -> None:
        """Keeps what this process holds within its bound; due after every reading of the map."""
        if self._held is not None:
            self._held.trim()

    @property
    def is_bounded(self) -> bool:
        """Whether memory is short: rows that are read in place are announced before."""
        return self._held is not None

    def read_ahead(self) -> None:
        """Has neighbours of what is read fetched from disk with it, until `let_go`."""
        if self.is_bounded and hasattr(mmap, "MADV_NORMAL"):
            self.map.madvise(mmap.MADV_NORMAL)

    def let_go(self) -> None:
        """Gives up what this process holds of the file; rows are read here and there.

        What is used again is mapped again. Where memory is short, its neighbours, which may be
        megabytes, are left on disk.
        """
        let_go(self.map)
        if self.is_bounded and hasattr(mmap, "MADV_RANDOM"):
            self.map.madvise(mmap.MADV_RANDOM)

    def _ask(self, first: np.ndarray, last: np.ndarray) -> None:
        if self._n_asked > _PAGES_KEPT:
            self._is_asked[:] = False
            self._n_asked = 0
        for start, end in _runs(first, last):
            n_bytes = (end + 1 - start) * mmap.PAGESIZE
            self.map.madvise(mmap.MADV_WILLNEED, start * mmap.PAGESIZE, n_bytes)
            self._is_asked[start : end + 1] = True
            self._n_asked += end + 1 - start

    def _places(self, factors: Tensor, rows: Tensor) -> tuple[np.ndarray, int]:
        """Returns where the rows begin in the file, (m,), and how many bytes each has."""
        offset = factors.data_ptr() - self._address
        stride = factors.stride(0) * factors.itemsize
        width = factors.numel() // len(factors) * factors.itemsize
        return offset + rows.numpy() * stride, width


def _map(handle: int) -> mmap.mmap:
    if hasattr(mmap, "MAP_PRIVATE"):
        flags, access = mmap.MAP_PRIVATE | _NO_RESERVE, mmap.PROT_READ | mmap.PROT_WRITE
        return mmap.mmap(handle, 0, flags=flags, prot=access)
    return mmap.mmap(handle, 0, access=mmap.ACCESS_COPY)


def _runs(first: np.ndarray, last: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yields runs of pages, first and last, neighbours joined."""
    order = np.argsort(first)
    first, last = first[order], last[order]
    is_new = np.append(True, first[1:] > last[:-1] + 1)  # rows are of one width: ends are sorted
    starts = np.flatnonzero(is_new)
    yield from zip(
        first[starts].tolist(), last[np.append(starts[1:], len(first)) - 1].tolist(), strict=True
    )
