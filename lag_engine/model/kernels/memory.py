"""Room for what is read from end to end for every token."""

from __future__ import annotations

import contextlib
import mmap

import torch
from torch import Tensor

LARGE_PAGE = 2 << 20
"""Bytes of a large page on the systems that are asked for them."""


def large_pages(shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """Returns zeros, in large pages where the system has them: a scan meets fewer boundaries.

    A processor fetches ahead within a page only: in pages of 4 KB a scan of 10 MB takes a fifth
    longer.
    """
    n_bytes = shape[0] * shape[1] * dtype.itemsize
    if n_bytes < LARGE_PAGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.zeros(shape, dtype=dtype)
    memory = mmap.mmap(-1, n_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a system without them
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=dtype).view(shape)
