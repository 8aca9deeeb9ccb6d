"""How much of a library's mapped files this process holds, bounded.

A page that was read counts as this process's memory until it is let go; the system's cache keeps
it for as long as there is room, and reading it again only maps it again.
"""

from __future__ import annotations

import mmap
import os
import weakref
from pathlib import Path
from threading import Lock
from weakref import WeakSet

from lag_engine.errors import LibraryError

_STATM = Path("/proc/self/statm")
_FILE_PAGES = 2  # which of its numbers
_OPTION = "factor_cache_bytes"


class HeldPages:
    """What this process holds of some mapped files, kept below a number of bytes.

    Linux tells what a process holds of all files together, neighbours included that were mapped
    beside a page that was read. What that grew by since the last time is taken for ours: other
    files, such as a model's weights, can make us let go early, and never late. Safe to share
    between threads, which may read meanwhile.

    Args:
        most: bytes.

    Raises:
        LibraryError: it is no number of bytes above zero, or the system does not tell.
    """

    def __init__(self, most: int) -> None:
        if isinstance(most, bool) or not isinstance(most, int) or most < 1:
            raise LibraryError(
                f"Expected {_OPTION} to be a whole number above zero",
                f"found {most!r}",
                "pass the bytes, such as 256 * 2**20; None for no limit",
            )
        if not _STATM.exists():
            raise LibraryError(
                f"Expected Linux for {_OPTION}",
                f"found a system without {_STATM}, which tells what a process holds",
                "leave it out: the system takes pages back when memory is short",
            )
        self._most = most // mmap.PAGESIZE
        self._files: WeakSet[mmap.mmap] = WeakSet()
        self._lock = Lock()
        self._statm = os.open(_STATM, os.O_RDONLY)
        weakref.finalize(self, os.close, self._statm)
        self._others = self._held()  # pages

    def watch(self, file: mmap.mmap) -> None:
        """Bounds a map too, for as long as it lives."""
        with self._lock:
            self._files.add(file)

    def trim(self) -> None:
        """Lets go of all pages if they are too many; called after every reading."""
        held = self._held()
        if held - self._others <= self._most:
            self._others = min(self._others, held)
            return
        with self._lock:
            for file in self._files:
                let_go(file)
            self._others = self._held()

    def _held(self) -> int:
        return int(os.pread(self._statm, 128, 0).split()[_FILE_PAGES])


def let_go(file: mmap.mmap) -> None:
    """Gives up this process's pages of a map that nothing was written to; it stays readable."""
    if hasattr(mmap, "MADV_DONTNEED"):
        file.madvise(mmap.MADV_DONTNEED)
