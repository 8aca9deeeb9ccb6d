"""The bank reads the library when it is used, and follows it when told to."""

from __future__ import annotations

import pytest
import torch

from lag_engine.errors import AdapterNotFoundError
from lag_engine.model.bank import AdapterBank

CPU = torch.device("cpu")
MODULE = "model.layers.0.mlp.gate_proj"


@pytest.fixture
def library(make_adapters, memory_library):
    return memory_library(make_adapters())


def test_a_stack_has_the_librarys_rows_in_order(library):
    stack, own = (
        AdapterBank(library).stack(MODULE, "knowledge", CPU),
        library.snapshot().stack(MODULE, "knowledge"),
    )
    rows = torch.tensor([[0, 2], [1, 0]])
    assert stack.names == own.names
    assert [stack.names[row] for row in stack.row_of.values()] == list(stack.row_of)
    assert torch.equal(stack.arrow, own.arrow)
    assert torch.equal(stack.A(rows), own.A(rows))
    assert torch.equal(stack.B(rows), own.B(rows))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_what_scores_are_made_of_is_kept_in_float32(dtype, make_adapters, memory_library):
    stack = AdapterBank(memory_library(make_adapters(), dtype)).stack(MODULE, "task", CPU)
    assert (stack.arrow.dtype, stack.singular.dtype) == (torch.float32, torch.float32)
    assert stack.arrow.is_contiguous()
    assert stack.A(torch.tensor([0])).dtype == dtype


def test_a_float32_library_is_shown_without_a_copy(make_stack):
    from lag_engine.model.resident import ResidentStack

    own = make_stack(dtype=torch.float32)
    assert ResidentStack(own, CPU).arrow.data_ptr() == own.arrow.data_ptr()


def test_a_stack_is_opened_once_and_only_where_adapters_are(library):
    bank = AdapterBank(library)
    assert bank.stack(MODULE, "task", CPU) is bank.stack(MODULE, "task", CPU)
    assert bank.stack("lm_head", "task", CPU) is None
    assert AdapterBank(None).stack(MODULE, "task", CPU) is None


def test_refresh_follows_the_generation(library):
    bank = AdapterBank(library)
    before = bank.stack(MODULE, "knowledge", CPU)
    assert not bank.refresh()
    library.replace(library.adapters[:-1])
    assert bank.stack(MODULE, "knowledge", CPU) is before, "nothing moves before refresh"
    assert bank.refresh()
    after = bank.stack(MODULE, "knowledge", CPU)
    assert set(before.names) - set(after.names) <= {"doc8"}
    assert "doc8" not in bank.names("knowledge")
    assert bank.generation == library.generation


def test_a_stack_first_opened_after_a_change_still_shows_the_old_library(library):
    bank = AdapterBank(library)
    before = library.snapshot().stack(MODULE, "knowledge").names
    library.replace([])
    assert bank.stack(MODULE, "knowledge", CPU).names == before


def test_unknown_names_are_refused_with_near_matches(library):
    bank = AdapterBank(library)
    bank.require(["doc1", "task2"])
    with pytest.raises(AdapterNotFoundError, match=r"no 'dok1' among 16.*Did you mean.*'doc1'"):
        bank.require(["doc1", "dok1"])
    with pytest.raises(AdapterNotFoundError, match="among 0 adapters"):
        AdapterBank(None).require(["doc1"])


def test_a_library_on_disk_serves_as_well_as_one_in_memory(
    tmp_path, make_model, make_adapters, memory_library, token_ids
):
    from lag_engine.adapters import AdapterLibrary, LoraModule, PeftAdapter
    from lag_engine.model.surgery import install
    from lag_engine.routing import Plan

    model, adapters, ids = make_model(), make_adapters(), token_ids()

    def logits(library):
        with (
            install(model, AdapterBank(library)) as surgery,
            surgery.activate([Plan.from_mode("lag", retrieve_k=3)]),
            torch.no_grad(),
        ):
            return model(ids).logits

    with AdapterLibrary.create(tmp_path / "library", base_model=model) as library:
        for adapter in adapters:
            modules = {
                name: LoraModule(lora.lora_A.float(), lora.lora_B.float(), lora.scaling)
                for name, lora in adapter.modules.items()
            }
            source = PeftAdapter(modules=modules, base_model=None, config={}, source="memory")
            library.add(source, name=adapter.name, kind=adapter.kind)
        torch.testing.assert_close(
            logits(library), logits(memory_library(adapters)), rtol=1e-3, atol=1e-4
        )
