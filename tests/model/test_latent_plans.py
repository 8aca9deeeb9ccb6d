"""Poly-PRAG's plans at work: passages that mix shared latent adapters."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch

from lag_engine.adapters import (
    AdapterLibrary,
    AdapterSource,
    LoraModule,
    MixtureSource,
    PeftAdapter,
)
from lag_engine.errors import AdapterNotFoundError, PlanError
from lag_engine.model.engine import LAGEngine
from lag_engine.routing import LAG, Generated, Latent, Pinned, Plan, Routed

CLOSE = {"rtol": 1e-9, "atol": 1e-9}
GATE, DOWN = "model.layers.0.mlp.gate_proj", "model.layers.1.mlp.down_proj"
MIXED = {
    "p0": {GATE: {"latent-0": 0.75, "latent-2": 0.25}, DOWN: {"latent-1": 1.0}},
    "p1": {GATE: {"latent-2": 0.5, "latent-1": 0.5}, DOWN: {"latent-1": 0.25, "latent-3": 0.75}},
    "p2": {GATE: {"latent-3": -0.5}},
}


def latent_adapter(model, seed) -> PeftAdapter:
    generator = torch.Generator().manual_seed(seed)
    modules = {}
    for name in (GATE, DOWN):
        d_out, d_in = model.get_submodule(name).weight.shape
        rank = 1 + seed % 3
        modules[name] = LoraModule(
            torch.randn(rank, d_in, generator=generator, dtype=torch.float64) / d_in**0.5,
            torch.randn(d_out, rank, generator=generator, dtype=torch.float64),
            2.0,
        )
    return PeftAdapter(modules)


@pytest.fixture
def model(make_text_model):
    return make_text_model().double()


@pytest.fixture
def latents(model):
    return {f"latent-{i}": latent_adapter(model, 10 + i) for i in range(4)}


@pytest.fixture
def library(tmp_path, model, latents, random_adapter):
    with AdapterLibrary.create(tmp_path / "library", base_model=model, dtype="float64") as library:
        for i in range(2):
            library.add(random_adapter(model, "task", i), name=f"task{i}")
            doc = random_adapter(model, "knowledge", 50 + i)
            library.add(doc, name=f"doc{i}", kind="knowledge")
        library.add_mixtures(
            [MixtureSource(name, weights, name) for name, weights in MIXED.items()],
            latents=[AdapterSource(adapter, name, "latent") for name, adapter in latents.items()],
        )
        yield library


@pytest.fixture
def engine(model, byte_tokenizer, library):
    with LAGEngine(model, byte_tokenizer, library) as engine:
        yield engine


def merged(model, latents, weights):
    """A copy of the model with the passages' mixed updates added to its weights."""
    copy = deepcopy(model)
    with torch.no_grad():
        for passage, scale in weights.items():
            for module, mixture in MIXED[passage].items():
                for name, weight in mixture.items():
                    part = latents[name].modules[module]
                    delta = part.scaling * part.lora_B @ part.lora_A
                    copy.get_submodule(module).weight += scale * weight * delta
    return copy


IDS = torch.tensor([[1, 40, 41, 42, 99, 7]])


@pytest.mark.parametrize("weights", [{"p0": 1.0}, {"p0": 1.0, "p1": 1.0}, {"p1": 0.5, "p2": -2.0}])
def test_mixtures_equal_their_dense_sum_merged_into_the_weights(
    weights, model, byte_tokenizer, library, latents
):
    expected = merged(model, latents, weights)(IDS).logits
    with LAGEngine(model, byte_tokenizer, library) as engine:
        found = engine.logits(IDS, plan=engine.plan("polyprag", adapters=weights))
    torch.testing.assert_close(found, expected, **CLOSE)


def test_with_lag_the_task_slot_is_routed_beside_the_mixture(
    model, byte_tokenizer, library, latents
):
    other = merged(model, latents, {"p1": 1.0})
    with LAGEngine(model, byte_tokenizer, library) as engine:
        found = engine.logits(IDS, plan=engine.plan("polyprag+lag", adapters=["p1"]))
    with LAGEngine(other, byte_tokenizer, library) as engine:
        expected = engine.logits(IDS, plan=Plan("custom", task=Routed(LAG())))
    torch.testing.assert_close(found, expected, **CLOSE)


def test_latent_adapters_are_no_candidates_of_a_router(engine):
    trace = engine.generate("a question", plan="lag", trace=True, max_new_tokens=4).trace
    names = {name for name in trace.share() if name}
    assert names
    assert not any("latent" in name for name in names)


def test_a_trace_shows_the_latent_adapters_and_generation_applies_them(engine):
    plan = engine.plan("polyprag", adapters=["p0"])
    answer = engine.generate("a question", plan=plan, trace=True, max_new_tokens=4)
    usage = answer.trace.share(slot="knowledge")
    assert {name for name in usage if name} == {"latent-0", "latent-1", "latent-2"}
    assert answer.trace.plan.knowledge == Latent("p0")


def test_rows_of_a_batch_mix_each_their_own(engine):
    plans = [engine.plan("polyprag", adapters=[p]) for p in ("p0", "p1")] + [
        engine.plan("base"),
        engine.plan("polyprag+lag", adapters={"p0": 0.5, "p2": 1}),
    ]
    together = engine.logits(IDS.expand(4, -1), plan=plans)
    for row, plan in enumerate(plans):
        alone = engine.logits(IDS, plan=plan)
        torch.testing.assert_close(together[row], alone[0], **CLOSE)


def test_a_running_engine_follows_new_passages(engine, library):
    with pytest.raises(AdapterNotFoundError, match="no 'p9' among 3"):
        engine.logits(IDS, plan=engine.plan("polyprag", adapters=["p9"]))
    library.add_mixtures([MixtureSource("p9", MIXED["p0"])])
    both = [engine.logits(IDS, plan=engine.plan("polyprag", adapters=[n])) for n in ("p0", "p9")]
    assert torch.equal(*both)


@pytest.mark.parametrize(
    "plan",
    [
        Plan.from_mode("prag", adapters=["p0"]),
        Plan.from_mode("prag", adapters=["latent-0"]),
        Plan("custom", task=Pinned("latent-0")),
        Plan.from_mode("lag", candidates=["task0", "latent-0"]),
        Plan.from_mode("lag", candidates=["doc0", "p1"]),
    ],
)
def test_latent_adapters_and_mixtures_are_neither_pinned_nor_routed_to(plan, engine):
    with pytest.raises(PlanError, match="mode 'polyprag'"):
        engine.logits(IDS, plan=plan)


def test_an_adapter_of_its_own_is_no_mixture(engine):
    with pytest.raises(PlanError, match="'doc0', which are adapters of their own"):
        engine.logits(IDS, plan=engine.plan("polyprag", adapters=["doc0"]))


def test_a_library_without_mixtures_says_how_to_make_some(
    model, byte_tokenizer, tmp_path, random_adapter
):
    with AdapterLibrary.create(tmp_path / "plain", base_model=model) as plain:
        plain.add(random_adapter(model, "task", 0), name="task0")
        with (
            LAGEngine(model, byte_tokenizer, plain) as engine,
            pytest.raises(PlanError, match="Encode the passages with PolyPRAG"),
        ):
            engine.logits(IDS, plan=engine.plan("polyprag", adapters=["p0"]))


def test_generated_adapters_equal_pinned_ones_of_the_same_factors(engine, library, random_adapter):
    made = {
        name: random_adapter(engine.model, "knowledge", seed, scaling=3.0)
        for name, seed in (("a", 1), ("b", 2))
    }
    for name, adapter in made.items():
        library.add(adapter, name=f"stored-{name}", kind="knowledge")
    for mode in ("dyprag", "dyprag+lag"):
        stored = mode.removeprefix("dy")
        expected = engine.logits(
            IDS, plan=engine.plan(stored, adapters={"stored-a": 1, "stored-b": 0.5})
        )
        with engine.generated(made) as (a, b):
            found = engine.logits(IDS, plan=engine.plan(mode, adapters={a: 1, b: 0.5}))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_generated_adapters_are_named_by_their_content_and_gone_afterwards(engine, random_adapter):
    one, two = (random_adapter(engine.model, "knowledge", seed) for seed in (1, 2))
    with engine.generated({"p": one}) as [first]:
        with engine.generated({"p": two}) as [second], engine.generated({"p": one}) as [again]:
            assert first == again != second
        plan = engine.plan("dyprag", adapters=[first])
        answer = engine.generate("hello", plan=plan, max_new_tokens=2, trace=True)
        assert first in answer.trace.share(slot="knowledge")
        with pytest.raises(AdapterNotFoundError, match="inside `with engine"):
            engine.logits(IDS, plan=engine.plan("dyprag", adapters=[second]))
    with pytest.raises(AdapterNotFoundError, match="among 0"):
        engine.logits(IDS, plan=plan)


def test_a_request_that_began_keeps_its_generated_adapter(engine, random_adapter):
    adapter = random_adapter(engine.model, "knowledge", 1)
    with engine.generated({"p": adapter}) as names:
        plan = engine.plan("dyprag", adapters=names)
        expected = engine.generate("hello", plan=plan, max_new_tokens=8).token_ids
        pieces = engine.stream("hello", plan=plan, max_new_tokens=8)
        first = next(pieces)
    rest = [first, *pieces]
    assert rest[-1].generation.token_ids == expected


def test_an_engine_without_a_library_takes_generated_adapters(
    make_text_model, byte_tokenizer, random_adapter
):
    model = make_text_model()
    with LAGEngine(model, byte_tokenizer) as engine:
        base = engine.logits(IDS, plan="base")
        with engine.generated({"p": random_adapter(model, "knowledge", 1)}) as names:
            plan = Plan.from_mode("dyprag", adapters=names)
            assert not torch.equal(engine.logits(IDS, plan=plan), base)
            assert engine.generate("hi", plan=plan, max_new_tokens=2).token_ids
        assert torch.equal(engine.logits(IDS, plan="base"), base)


def test_generated_adapters_of_another_model_are_refused_and_others_go_on(
    engine, make_text_model, random_adapter
):
    from lag_engine.errors import AdapterMismatchError

    foreign = random_adapter(make_text_model(intermediate=40), "knowledge", 1)
    with pytest.raises(AdapterMismatchError, match="D_out 64"), engine.generated({"p": foreign}):
        pass
    missing = PeftAdapter({"model.layers.9.mlp.up_proj": next(iter(foreign.modules.values()))})
    with pytest.raises(AdapterMismatchError, match="linear modules"):
        engine.generated({"p": missing}).__enter__()
    engine.logits(IDS, plan="lag")


def test_what_is_held_at_one_time_is_bounded(engine, random_adapter, monkeypatch):
    from lag_engine.model.generated import GeneratedAdapters

    one, two = (random_adapter(engine.model, "knowledge", seed) for seed in (1, 2))
    held = GeneratedAdapters(limit_bytes=15_000)
    names = held.add({"a": one})
    with pytest.raises(PlanError, match="at most 15,000 bytes"):
        held.add({f"b{i}": two for i in range(2)} | {"c": one})
    held.release(names)
    assert held.modules == {}
    with pytest.raises(AdapterNotFoundError):
        held.find(names)


def test_a_generated_selection_needs_its_context(engine):
    with pytest.raises(AdapterNotFoundError, match="generated adapters that are held"):
        engine.logits(IDS, plan=Plan("custom", knowledge=Generated("x")))
