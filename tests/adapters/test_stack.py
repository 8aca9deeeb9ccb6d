"""A module's stack over one block and over many, against the adapters it was made from."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest
import torch

from lag_engine.adapters import AdapterLibrary, rebuild, to_spectral

MODULE = "model.layers.0.self_attn.q_proj"


def is_mapped(tensor) -> bool:
    """Whether the tensor's memory is a mapped segment file and not a copy of it."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, end = (int(part, 16) for part in line.split()[0].split("-"))
        if start <= tensor.data_ptr() < end:
            return line.endswith(".safetensors")
    return False


def fill(library, make_adapter, *, ranks, together: bool):
    adapters = [make_adapter(seed, rank=rank) for seed, rank in enumerate(ranks)]
    if together:
        library.add_many(adapters, progress=False)
    else:
        for adapter in adapters:
            library.add(adapter)
    return adapters


@pytest.mark.parametrize("together", [True, False], ids=["one segment", "many segments"])
def test_every_row_rebuilds_its_adapter_whatever_its_rank(
    library, make_adapter, stacked_delta, together
):
    adapters = fill(library, make_adapter, ranks=[3, 1, 5, 2], together=together)
    stack = library.stack(MODULE, "task")
    assert stack.rank == 5
    assert stack.ranks == (3, 1, 5, 2)
    assert stack.names == tuple(adapter.source for adapter in adapters)
    for adapter in adapters:
        part = adapter.modules[MODULE]
        torch.testing.assert_close(
            stacked_delta(library, MODULE, "task", adapter.source).float(),
            part.scaling * part.lora_B @ part.lora_A,
            atol=1e-4,
            rtol=1e-4,
        )


@pytest.mark.parametrize("together", [True, False], ids=["one segment", "many segments"])
def test_gathering_follows_the_shape_of_the_rows(library, make_adapter, together):
    fill(library, make_adapter, ranks=[3, 1, 5, 2], together=together)
    stack = library.stack(MODULE, "task")
    rows = torch.tensor([[0, 3, 3], [2, 1, 0]])
    assert stack.A(rows).shape == (2, 3, 5, 32)
    assert stack.B(rows).shape == (2, 3, 5, 32)
    for place, row in zip(stack.A(rows).flatten(0, 1), rows.flatten(), strict=True):
        torch.testing.assert_close(place, stack.A(row), rtol=0, atol=0)
    assert stack.A(torch.tensor([], dtype=torch.long)).shape == (0, 5, 32)


@pytest.mark.parametrize("together", [True, False], ids=["one segment", "many segments"])
def test_padding_is_zero_and_arrow_is_the_first_row(library, make_adapter, together):
    fill(library, make_adapter, ranks=[2, 4], together=together)
    stack = library.stack(MODULE, "task")
    everything = torch.arange(2)
    assert stack.A(everything)[0, 2:].count_nonzero() == 0
    assert stack.B(everything)[0, 2:].count_nonzero() == 0
    assert stack.singular[0, 2:].count_nonzero() == 0
    torch.testing.assert_close(stack.arrow, stack.A(everything)[:, 0], rtol=0, atol=0)
    torch.testing.assert_close(stack.singular, stack.B(everything).norm(dim=-1))


def test_the_stack_shrinks_to_the_highest_rank_that_is_left(library, make_adapter):
    fill(library, make_adapter, ranks=[2, 6, 3], together=True)
    library.remove("adapter-1")
    stack = library.stack(MODULE, "task")
    assert stack.names == ("adapter-0", "adapter-2")
    assert stack.rank == 3
    assert stack.singular.shape == (2, 3)
    assert stack.A(torch.tensor([1])).shape == (1, 3, 32)


def test_arrow_vectors_of_one_segment_are_a_view_of_the_file(library, make_adapter):
    fill(library, make_adapter, ranks=[2, 2, 2], together=True)
    stack = library.stack(MODULE, "task")
    assert stack.arrow.is_contiguous()
    assert is_mapped(stack.arrow)


def test_kinds_are_separate_and_modules_may_be_missing(library, make_adapter):
    library.add(make_adapter(0), kind="knowledge")
    library.add(make_adapter(1, modules=(MODULE,)))
    library.add(make_adapter(2, modules=("model.layers.1.self_attn.q_proj",)))
    assert library.stack(MODULE, "task").names == ("adapter-1",)
    assert library.stack(MODULE, "knowledge").names == ("adapter-0",)
    assert library.modules("task") == library.modules()


def test_a_kind_without_adapters_gives_an_empty_stack(library, make_adapter):
    library.add(make_adapter(0))
    stack = library.stack(MODULE, "knowledge")
    assert len(stack) == 0
    assert stack.arrow.shape == (0, 32)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_factors_have_the_librarys_dtype_and_singular_values_float32(tmp_path, make_adapter, dtype):
    with AdapterLibrary.create(tmp_path / dtype, base_model=None, dtype=dtype) as library:
        adapter = make_adapter(0)
        library.add_many([adapter, make_adapter(1)], progress=False)
        stack = library.stack(MODULE, "task")
        assert stack.dtype == stack.A(torch.tensor(0)).dtype == getattr(torch, dtype)
        assert stack.singular.dtype == torch.float32
        form = to_spectral(*adapter.modules[MODULE])
        row = torch.tensor(0)
        torch.testing.assert_close(
            stack.B(row).float().mT @ stack.A(row).float(), rebuild(form), atol=0.3, rtol=0.05
        )


@pytest.mark.parametrize("together", [True, False], ids=["one segment", "many segments"])
def test_the_factors_lie_where_the_stack_says(library, make_adapter, together):
    fill(library, make_adapter, ranks=[3, 1, 5, 2], together=together)
    library.remove("adapter-2")
    stack = library.stack(MODULE, "task")
    places, rows = stack.places, torch.arange(len(stack))
    for addresses, factors in ((places.A, stack.A(rows)), (places.B, stack.B(rows))):
        for row, address in enumerate(addresses.tolist()):
            part = factors[row, : places.ranks[row]].contiguous()
            there = (ctypes.c_char * part.nbytes).from_address(address).raw
            assert torch.equal(torch.frombuffer(bytearray(there), dtype=places.dtype), part.ravel())
            assert not factors[row, places.ranks[row] :].any()
