"""Room for what every token reads."""

from __future__ import annotations

import mmap

import pytest
import torch

from lag_engine.model.kernels.memory import LARGE_PAGE, large_pages


@pytest.mark.parametrize("n_rows", [1, 5000])
@pytest.mark.parametrize("dtype", [torch.int8, torch.bfloat16], ids=str)
def test_it_is_zero_and_can_be_written(n_rows, dtype):
    room = large_pages((n_rows, 513), dtype)
    assert (room.shape, room.dtype) == ((n_rows, 513), dtype)
    assert not room.any()
    assert room.fill_(1).all()


def test_a_system_without_large_pages_gives_small_ones(monkeypatch):
    monkeypatch.delattr(mmap, "MADV_HUGEPAGE", raising=False)
    assert not large_pages((2, LARGE_PAGE), torch.int8).any()
