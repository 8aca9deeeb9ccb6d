"""A routed linear is its base plus the updates, whatever kind of linear the base is."""

from __future__ import annotations

import bitsandbytes
import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from lag_engine.model.activation import Activation, Part
from lag_engine.model.bank import AdapterBank
from lag_engine.model.linear import ActivePlans, RoutedLinear, features
from lag_engine.model.resolved import ResolvedPlan, ResolvedSelection
from lag_engine.model.surgery import install
from lag_engine.routing import GROUPED, REFERENCE, Pinned, Plan

D_IN, D_OUT = 64, 48


def conv1d():
    torch.manual_seed(0)
    return Conv1D(D_OUT, D_IN)


def linear():
    torch.manual_seed(0)
    return nn.Linear(D_IN, D_OUT)


def linear_4bit(quant_type):
    base = bitsandbytes.nn.Linear4bit(
        D_IN, D_OUT, quant_type=quant_type, compute_dtype=torch.float32
    )
    base.load_state_dict(linear().state_dict())
    return base.to("cpu")  # quantises


BASES = {
    "linear": linear,
    "conv1d": conv1d,
    "nf4": lambda: linear_4bit("nf4"),
    "fp4": lambda: linear_4bit("fp4"),
}


@pytest.fixture(params=BASES)
def base(request):
    return BASES[request.param]()


class One(nn.Module):
    """A model of one module."""

    def __init__(self, proj):
        super().__init__()
        self.proj = proj

    def forward(self, x):
        return self.proj(x)


@pytest.fixture
def adapters(make_adapters):
    """Two of the random adapters, moved onto the one module."""
    adapter_type = type(make_adapters()[0])
    lora_type = type(next(iter(make_adapters()[0].modules.values())))
    generator = torch.Generator().manual_seed(4)
    return [
        adapter_type(
            name,
            "task",
            {
                "proj": lora_type(
                    torch.randn(rank, D_IN, generator=generator),
                    torch.randn(D_OUT, rank, generator=generator),
                    scaling,
                )
            },
        )
        for name, rank, scaling in (("a", 3, 0.5), ("b", 5, 2.0))
    ]


@pytest.fixture
def x():
    return torch.randn(2, 5, D_IN, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("form", [GROUPED, REFERENCE], ids=lambda form: form.name)
@torch.no_grad()
def test_the_output_is_the_base_plus_the_dense_update(form, base, adapters, memory_library, x):
    model, plan = One(base), Plan("custom", task=Pinned({"a": 1.0, "b": -0.5}))
    expected = base(x)
    for adapter, weight in zip(adapters, (1.0, -0.5), strict=True):
        expected = expected + weight * (x @ adapter.modules["proj"].delta.T.float())
    with install(model, AdapterBank(memory_library(adapters)), form=form) as surgery:
        assert model.proj.base is base
        with surgery.activate([plan]):
            found = model(x)
        assert torch.equal(model(x), base(x))
    assert model.proj is base
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_quantised_model_is_routed_and_restored(
    make_model, make_adapters, memory_library, token_ids
):
    model, ids = make_model(), token_ids()
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and name != "lm_head":
            packed = bitsandbytes.nn.Linear4bit(
                module.in_features, module.out_features, bias=False, compute_dtype=torch.float32
            )
            packed.load_state_dict(module.state_dict())
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, packed.to("cpu"))
    before = model(ids).logits
    with (
        install(model, AdapterBank(memory_library(make_adapters()))) as surgery,
        surgery.activate([Plan.from_mode("lag", retrieve_k=3)]),
    ):
        assert not torch.allclose(model(ids).logits, before, atol=1e-3)
    assert torch.equal(model(ids).logits, before)


def test_features_are_input_then_output_width(base):
    assert features(base) == (D_IN, D_OUT)
    assert features(nn.LayerNorm(D_IN)) is None
    assert features(nn.Embedding(D_IN, D_OUT)) is None


@pytest.mark.parametrize("shape", [(D_IN,), (7, D_IN), (2, 5, D_IN), (2, 3, 5, D_IN)])
@torch.no_grad()
def test_one_plan_serves_inputs_of_any_shape(shape, adapters, memory_library):
    model, x = One(linear()), torch.ones(shape)
    expected = model(x) + x @ adapters[0].modules["proj"].delta.T.float()
    plan = Plan("custom", task=Pinned("a"))
    with (
        install(model, AdapterBank(memory_library(adapters))) as surgery,
        surgery.activate([plan]),
    ):
        torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-4)


def test_attributes_models_read_come_from_the_base(base):
    routed = RoutedLinear(base, name="proj", plans=ActivePlans())
    assert routed.weight is base.weight
    assert routed.bias is base.bias
    assert features(routed) == (D_IN, D_OUT)
    with pytest.raises(AttributeError, match="no_such"):
        _ = routed.no_such


def test_a_module_no_adapter_updates_passes_its_base_through(x):
    base, plans = linear(), ActivePlans()
    routed = RoutedLinear(base, name="proj", plans=plans)
    plan = Plan.from_mode("lag")
    selection = ResolvedSelection(AdapterBank(None), "task", plan.selection("task"))
    plans.current = Activation([Part(ResolvedPlan(plan, (selection,)))])
    assert torch.equal(routed(x), base(x))


def test_the_base_output_is_never_written_to(adapters, memory_library, x):
    model, seen = One(linear()), []
    model.proj.register_forward_hook(lambda _module, _args, out: seen.append((out, out.clone())))
    plans = [Plan("custom", task=Pinned("a")), Plan.from_mode("base")]
    with install(model, AdapterBank(memory_library(adapters))) as surgery:
        for active in (plans, plans[:1]):
            with torch.no_grad(), surgery.activate(active):
                model(x)
    assert len(seen) == 2
    assert all(torch.equal(out, kept) for out, kept in seen)
