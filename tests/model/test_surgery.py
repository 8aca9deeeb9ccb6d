"""Surgery follows the library and leaves no mark: before, during and after."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lag_engine.errors import AdapterMismatchError, ModelError
from lag_engine.model.bank import AdapterBank
from lag_engine.model.linear import RoutedLinear
from lag_engine.model.surgery import install
from lag_engine.routing import Plan

FAMILIES = ["llama", "qwen2", "gemma", "gpt2"]
LAG = Plan.from_mode("lag", retrieve_k=3)


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


@torch.no_grad()
def logits(model, ids):
    return model(ids).logits


def test_removal_leaves_logits_modules_and_state_bit_identical(
    family, make_model, make_adapters, memory_library, token_ids
):
    model, ids = make_model(family), token_ids(2)
    before, modules = logits(model, ids), dict(model.named_modules())
    state = {name: value.clone() for name, value in model.state_dict().items()}
    with install(model, AdapterBank(memory_library(make_adapters(family)))) as surgery:
        assert torch.equal(logits(model, ids), before), "no plan is active"
        with surgery.activate([LAG]):
            assert not torch.allclose(logits(model, ids), before, atol=1e-3)
        with surgery.activate([Plan.from_mode("base")]):
            assert torch.equal(logits(model, ids), before)
    assert torch.equal(logits(model, ids), before)
    assert dict(model.named_modules()) == modules
    after = model.state_dict()
    assert list(after) == list(state)
    assert all(torch.equal(after[name], value) for name, value in state.items())


def test_every_target_module_is_wrapped_over_its_untouched_base(
    family, make_model, make_adapters, memory_library
):
    model, adapters = make_model(family), make_adapters(family)
    bases = dict(model.named_modules())
    targets = {module for adapter in adapters for module in adapter.modules}
    with install(model, AdapterBank(memory_library(adapters))) as surgery:
        assert set(surgery.modules) == targets
        for name, module in model.named_modules():
            assert isinstance(module, RoutedLinear) == (name in targets)
            if name in targets:
                assert module.base is bases[name]
                assert module.name == name
                assert module.weight is bases[name].weight


def test_a_routed_module_keeps_the_mode_of_its_base(make_model, make_adapters, memory_library):
    model = make_model()
    with install(model, AdapterBank(memory_library(make_adapters()))):
        assert not any(module.training for module in model.modules())


def test_a_bank_without_a_library_changes_nothing(make_model, token_ids):
    model, ids = make_model(), token_ids()
    before = logits(model, ids)
    with install(model, AdapterBank(None)) as surgery, surgery.activate([LAG]):
        assert surgery.modules == ()
        assert torch.equal(logits(model, ids), before)


def test_an_installation_that_fails_midway_undoes_itself(
    make_model, make_adapters, memory_library, monkeypatch
):
    model = make_model()
    modules = dict(model.named_modules())
    calls = []

    def failing_setattr(self, name, value):
        if isinstance(value, RoutedLinear):
            calls.append(name)
            if len(calls) == 4:
                raise RuntimeError("interrupted")
        nn.Module.__setattr__(self, name, value)

    for parent in {type(module) for module in model.modules()}:
        monkeypatch.setattr(parent, "__setattr__", failing_setattr, raising=False)
    with pytest.raises(RuntimeError, match="interrupted"):
        install(model, AdapterBank(memory_library(make_adapters())))
    assert len(calls) == 4
    assert dict(model.named_modules()) == modules


def test_a_library_for_other_modules_is_refused_with_the_nearest_names(
    make_model, make_adapters, memory_library
):
    model = make_model()
    modules = dict(model.named_modules())
    bare = model.model  # the library's paths start with "model."
    with pytest.raises(AdapterMismatchError, match=r"'layers\.0\.self_attn"):
        install(bare, AdapterBank(memory_library(make_adapters())))
    assert dict(model.named_modules()) == modules


def test_a_library_of_other_widths_is_refused(make_model, make_adapters, memory_library):
    model = make_model()
    layer = model.model.layers[1].mlp
    layer.down_proj = nn.Linear(48, 40)
    with pytest.raises(AdapterMismatchError, match=r"down_proj.*\(48, 40\)"):
        install(model, AdapterBank(memory_library(make_adapters())))


def test_a_module_that_is_not_linear_is_refused(make_model, make_adapters, memory_library):
    model = make_model()
    model.model.layers[0].mlp.gate_proj = nn.Conv1d(32, 48, 1)
    with pytest.raises(ModelError, match="Conv1d"):
        install(model, AdapterBank(memory_library(make_adapters())))


def test_a_routed_model_is_not_routed_twice(make_model, make_adapters, memory_library):
    model, bank = make_model(), AdapterBank(memory_library(make_adapters()))
    with install(model, bank) as surgery:
        routed = surgery.modules
        with pytest.raises(ModelError, match="another surgery"):
            install(model, bank)
        assert surgery.modules == routed


def test_the_surgery_follows_a_library_that_grows_and_shrinks(
    make_model, make_adapters, memory_library, token_ids
):
    model, ids, adapters = make_model(), token_ids(), make_adapters()
    base = logits(model, ids)
    tasks = [adapter for adapter in adapters if adapter.kind == "task"]
    library = memory_library([])

    def fresh(members):
        other = make_model()
        with (
            install(other, AdapterBank(memory_library(members))) as surgery,
            surgery.activate([LAG]),
        ):
            return logits(other, ids)

    with install(model, AdapterBank(library)) as surgery:
        assert surgery.modules == ()
        for members in (tasks, adapters, tasks[:2], []):
            library.replace(members)
            assert surgery.refresh()
            assert not surgery.refresh()
            assert set(surgery.modules) == {m for a in members for m in a.modules}
            with surgery.activate([LAG]):
                found = logits(model, ids)
            assert torch.equal(found, fresh(members) if members else base)


def test_a_change_that_does_not_fit_is_refused_every_time_and_leaves_the_modules(
    make_model, make_adapters, memory_library
):
    model, adapters = make_model(), make_adapters()
    library = memory_library(adapters)
    with install(model, AdapterBank(library)) as surgery:
        before = surgery.modules
        stray = type(adapters[0])("stray", "task", {"no.such": adapters[0].modules.popitem()[1]})
        library.replace([*adapters, stray])
        for _ in range(2):
            with pytest.raises(AdapterMismatchError, match=r"no\.such"):
                surgery.refresh()
            assert surgery.modules == before
        library.replace(adapters)
        assert surgery.refresh()


def test_plans_are_active_only_inside_their_context(make_model, make_adapters, memory_library):
    model, bank = make_model(), AdapterBank(memory_library(make_adapters()))
    with install(model, bank) as surgery:
        with surgery.activate([LAG]):
            with pytest.raises(ModelError, match="other plans active"), surgery.activate([LAG]):
                pass
            with pytest.raises(ModelError, match="other plans active"):
                surgery.refresh()
        with pytest.raises(KeyError), surgery.activate([LAG]):
            raise KeyError
        assert not surgery.refresh()
    with pytest.raises(ModelError, match="removed"), surgery.activate([LAG]):
        pass
    surgery.remove()


def test_the_same_selections_laid_over_other_rows_apply_to_those(
    make_model, make_adapters, memory_library, token_ids
):
    model, ids, base = make_model(), token_ids(2), Plan.from_mode("base")
    arrow = Plan.from_mode("arrow", retrieve_k=2)

    def under(*plans):
        with surgery.activate(plans):
            return logits(model, ids)

    with install(model, AdapterBank(memory_library(make_adapters()))) as surgery:
        alone = {plan: under(plan) for plan in (LAG, arrow, base)}
        for plans in ((LAG, base), (base, LAG), (LAG, LAG), (LAG, arrow), (arrow, LAG)):
            expected = torch.stack([alone[plan][row] for row, plan in enumerate(plans)])
            torch.testing.assert_close(under(*plans), expected)
