"""Which pages of mapped factors this process holds: prefetched before they are read, and bounded.

Factors stay in their files and are read through a memory map, so the system's page cache is the
cache: it knows what was used last, shares it between processes and gives it up when memory is
short. What it cannot know is which rows come next, and how much of them one process may hold. A
page that was not announced is read by a fault of its own, one after the other; announced, all
rows of a product are read at once.
"""

from __future__ import annotations

import mmap
from threading import RLock
from weakref import WeakSet

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lag_engine.errors import LibraryError

Pages = NDArray[np.int64]
"""Numbers of pages in a file; a run of pages is told by its first and its last."""

WINDOW = 1 << 16
"""Reading one page makes its cached neighbours resident too, up to this many aligned bytes."""


class FactorPages:
    """The pages of all factors of a library that may be resident.

    Where a limit is set, the pages read are counted, and all are given back at once when the next
    ones would exceed it. Those that the system still caches return without being read again, so
    that what was used last is kept as long as memory allows.

    Args:
        limit: bytes; None for no limit.

    Attributes:
        limit: as given.

    Raises:
        LibraryError: the limit is not positive, or this system cannot take pages back.
    """

    def __init__(self, limit: int | None = None) -> None:
        _check_limit(limit)
        self.limit = limit
        self._held = 0  # bytes
        self._files: WeakSet[MappedFactors] = WeakSet()
        self._lock = RLock()

    def map(self, file: mmap.mmap, *, start: int) -> MappedFactors:
        """Takes charge of a mapped file whose factors begin at `start` and end with it."""
        factors = MappedFactors(file, start, self)
        self._files.add(factors)
        return factors

    def expect(self, factors: MappedFactors, first: Pages, last: Pages) -> None:
        """Makes room for runs of pages of one file, first to last of each, and begins to read."""
        with self._lock:
            fresh = factors.fresh(first, last)
            if not len(fresh):
                return
            if self.limit is not None:
                n_bytes = factors.count(first[fresh], last[fresh])
                if self._held + n_bytes > self.limit:
                    self._give_back()
                    fresh = np.arange(len(first))
                    n_bytes = factors.count(first, last)
                self._held += n_bytes
            factors.read(first[fresh], last[fresh])

    def _give_back(self) -> None:
        for factors in self._files:
            factors.give_back()
        self._held = 0


class MappedFactors:
    """The factors of one mapped file.

    Args:
        file: the map; private or read-only.
        start: where factors begin; they go on to the end of the file.
        pages: of the library.
    """

    def __init__(self, file: mmap.mmap, start: int, pages: FactorPages) -> None:
        self._file = file
        self._start = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
        self._pages = pages
        self._address = torch.frombuffer(file, dtype=torch.uint8, count=1).data_ptr()
        self._is_read = np.zeros(len(file) // mmap.PAGESIZE + 1, dtype=bool)
        self._is_counted = np.zeros(len(file) // WINDOW + 1, dtype=bool)

    @property
    def is_limited(self) -> bool:
        """Whether all that is read must be announced, so that it stays within a limit."""
        return self._pages.limit is not None

    def expect(self, factors: Tensor, rows: Tensor) -> None:
        """Says that these rows of a factor, a view of the map, are read next.

        Args:
            factors: (n, ...); each row contiguous.
            rows: (m,) long; each in [0, n).
        """
        if not len(rows):
            return
        offset = factors.data_ptr() - self._address
        stride = factors.stride(0) * factors.itemsize
        width = factors.numel() // len(factors) * factors.itemsize
        starts = offset + rows.numpy() * stride  # (m,)
        self._pages.expect(self, starts // mmap.PAGESIZE, (starts + width - 1) // mmap.PAGESIZE)

    def fresh(self, first: Pages, last: Pages) -> NDArray[np.intp]:
        """Returns which runs have pages that were not read since they were given back."""
        return np.flatnonzero(~self._is_read[_spread(first, last)].all(axis=1))

    def count(self, first: Pages, last: Pages) -> int:
        """Counts the runs' windows as resident; returns the bytes that are new."""
        ratio = WINDOW // mmap.PAGESIZE
        windows = np.unique(_spread(first // ratio, last // ratio))
        new = windows[~self._is_counted[windows]]
        self._is_counted[new] = True
        return len(new) * WINDOW

    def read(self, first: Pages, last: Pages) -> None:
        """Has the system read the runs of pages, all at once and without waiting for them."""
        self._is_read[_spread(first, last)] = True
        if hasattr(mmap, "MADV_WILLNEED"):
            for start, n_pages in zip(first.tolist(), (last - first + 1).tolist(), strict=True):
                n_bytes = n_pages * mmap.PAGESIZE
                self._file.madvise(mmap.MADV_WILLNEED, start * mmap.PAGESIZE, n_bytes)

    def give_back(self) -> None:
        """Takes every factor out of this process's memory; reading brings it back."""
        if self._start < len(self._file):
            self._file.madvise(mmap.MADV_DONTNEED, self._start)
        self._is_read[:] = False
        self._is_counted[:] = False


def _spread(first: Pages, last: Pages) -> Pages:
    """Returns the numbers from first to last of each run, the last repeated; (m, longest)."""
    steps = np.arange(int((last - first).max()) + 1)
    runs: Pages = np.minimum(first[:, None] + steps, last[:, None])
    return runs


def _check_limit(limit: int | None) -> None:
    if limit is None:
        return
    if limit < 1:
        raise LibraryError(
            "Expected a positive number of bytes for factors in memory",
            f"found {limit!r}",
            "pass a larger one, or None for no limit",
        )
    if not hasattr(mmap, "MADV_DONTNEED"):
        raise LibraryError(
            "Expected a system that takes mapped pages back, as a limit on factors needs",
            "found none (Windows has no madvise)",
            "pass None: the system gives them up by itself when memory is short",
        )
