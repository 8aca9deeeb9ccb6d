"""Plans at work: pinned sums, rows of a batch, padding, decoding, and what is refused."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch

from lag_engine.errors import AdapterNotFoundError, ModelError, PlanError
from lag_engine.model.activation import Part
from lag_engine.model.bank import AdapterBank
from lag_engine.model.surgery import install
from lag_engine.routing import LAG, Pinned, Plan, Recorder, Routed

FAMILIES = ["llama", "qwen2", "gpt2"]
PLANS = {
    "base": Plan.from_mode("base"),
    "arrow": Plan.from_mode("arrow", top_k=2),
    "spectr": Plan.from_mode("spectr"),
    "lag": Plan.from_mode("lag", retrieve_k=3, score="norm"),
    "adaptive": Plan.from_mode("lag", retrieve_k="adaptive"),
    "prag": Plan.from_mode("prag", adapters={"doc1": 1, "doc4": -0.5}),
    "prag+lag": Plan.from_mode("prag+lag", retrieve_k=3, adapters=["doc2"]),
    "oracle": Plan.from_mode("oracle", adapters={"task": "task1", "knowledge": "doc1"}),
}
CLOSE = {"rtol": 1e-9, "atol": 1e-9}


@pytest.fixture
def routed(make_model, make_adapters, memory_library):
    """A float64 model under surgery, so that rounding decides nothing."""
    model = make_model(dtype=torch.float64)
    with install(model, AdapterBank(memory_library(make_adapters(), torch.float64))) as surgery:
        yield model, surgery


@torch.no_grad()
def logits(routed, plans, ids, recorder=None, **inputs):
    model, surgery = routed
    if recorder is not None:
        [plan] = plans
        plans = [Part(surgery.resolve(plan), recorder=recorder)]
    with surgery.activate(plans):
        return model(ids, **inputs).logits


def merged_logits(model, adapters, weights, ids):
    """Logits of a copy whose weights have the dense updates added."""
    copy = deepcopy(model)
    with torch.no_grad():
        for adapter in adapters:
            for module, lora in adapter.modules.items():
                weight = copy.get_submodule(module).weight
                delta = weights.get(adapter.name, 0.0) * lora.delta
                weight += (
                    delta.T if type(copy.get_submodule(module)).__name__ == "Conv1D" else delta
                )
        return copy(ids).logits


@pytest.mark.parametrize("family", FAMILIES)
def test_pinned_adapters_equal_their_updates_merged_into_the_weights(
    family, make_model, make_adapters, memory_library, token_ids
):
    model, adapters = make_model(family, dtype=torch.float64), make_adapters(family)
    ids, weights = token_ids(2), {"task1": 1.0, "doc2": 0.7, "doc5": -0.4}
    expected = merged_logits(model, adapters, weights, ids)
    plan = Plan(
        "oracle",
        Pinned({"task1": 1.0}),
        Pinned({name: weight for name, weight in weights.items() if name != "task1"}),
    )
    with install(model, AdapterBank(memory_library(adapters, torch.float64))) as surgery:
        torch.testing.assert_close(logits((model, surgery), [plan], ids), expected, **CLOSE)


# PEFT still reads a property that transformers renamed.
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
@pytest.mark.parametrize("family", FAMILIES)
def test_one_pinned_adapter_equals_pefts_own_forward(
    family, make_model, make_adapters, memory_library, token_ids
):
    import peft

    adapter, ids = make_adapters(family)[1], token_ids(2)
    model = make_model(family, dtype=torch.float64)
    with install(model, AdapterBank(memory_library([adapter], torch.float64))) as surgery:
        ours = logits((model, surgery), [Plan("custom", task=Pinned("task1"))], ids)

    theirs = peft.get_peft_model(
        deepcopy(model),
        peft.LoraConfig(
            r=1,
            target_modules=list(adapter.modules),
            rank_pattern={name: len(lora.lora_A) for name, lora in adapter.modules.items()},
            alpha_pattern={
                name: lora.scaling * len(lora.lora_A) for name, lora in adapter.modules.items()
            },
            fan_in_fan_out=family == "gpt2",
        ),
        autocast_adapter_dtype=False,
    ).eval()
    with torch.no_grad():
        for name, lora in adapter.modules.items():
            layer = theirs.base_model.model.get_submodule(name)
            layer.lora_A["default"].weight.data = lora.lora_A
            layer.lora_B["default"].weight.data = lora.lora_B
        torch.testing.assert_close(ours, theirs(ids).logits, **CLOSE)


def test_each_row_of_a_batch_gets_the_answer_of_its_own_plan_alone(routed, token_ids):
    ids, plans = token_ids(len(PLANS) * 2), list(PLANS.values()) * 2
    together = logits(routed, plans, ids)
    for row, plan in enumerate(plans):
        alone = logits(routed, [plan], ids[row : row + 1])
        torch.testing.assert_close(together[row], alone[0], **CLOSE)


def test_base_rows_beside_routed_rows_are_the_bases_own(make_model, routed, token_ids):
    ids = token_ids(3)
    mixed = logits(routed, [PLANS["base"], PLANS["lag"], PLANS["base"]], ids)
    base = make_model(dtype=torch.float64)(ids).logits
    assert torch.equal(mixed[[0, 2]], base[[0, 2]])
    assert not torch.allclose(mixed[1], base[1], atol=1e-3)


def test_a_batch_of_base_plans_costs_no_routing(routed, token_ids, monkeypatch):
    _model, surgery = routed
    monkeypatch.setattr(surgery.bank, "stack", lambda *_: pytest.fail("a stack was opened"))
    logits(routed, [PLANS["base"]] * 2, token_ids(2))


@pytest.mark.parametrize("mode", PLANS)
def test_left_padding_changes_no_answer(mode, routed, token_ids):
    ids = token_ids(2, 9)
    short = ids[1, 4:]
    padded = ids.clone()
    padded[1, :4] = 0
    mask = torch.ones_like(ids)
    mask[1, :4] = 0
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    batch = logits(routed, [PLANS[mode]], padded, attention_mask=mask, position_ids=positions)
    torch.testing.assert_close(batch[1, 4:], logits(routed, [PLANS[mode]], short[None])[0], **CLOSE)
    torch.testing.assert_close(batch[0], logits(routed, [PLANS[mode]], ids[:1])[0], **CLOSE)


@pytest.mark.parametrize("mode", PLANS)
def test_cached_decoding_equals_a_full_prefill(mode, routed, token_ids):
    model, surgery = routed
    ids = token_ids(2, 10)
    full = logits(routed, [PLANS[mode]], ids)
    steps, cache = [], None
    with torch.no_grad(), surgery.activate([PLANS[mode]]):
        for part in (ids[:, :6], *ids[:, 6:].split(1, dim=1)):
            out = model(part, past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            steps.append(out.logits)
    torch.testing.assert_close(torch.cat(steps, dim=1), full, **CLOSE)


def test_generate_decodes_as_prefill_decides(routed, token_ids):
    model, surgery = routed
    ids = token_ids(1, 5)
    with surgery.activate([PLANS["lag"]]):
        grown = model.generate(
            ids, max_new_tokens=6, do_sample=False, pad_token_id=0, eos_token_id=None
        )
    greedy = logits(routed, [PLANS["lag"]], grown)[0, 4:-1].argmax(-1)
    assert torch.equal(greedy, grown[0, 5:])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models_keep_their_dtype_and_stay_close(
    dtype, make_model, make_adapters, memory_library, token_ids
):
    ids, library = token_ids(), memory_library(make_adapters(), dtype)
    model = make_model(dtype=dtype)
    with install(model, AdapterBank(library)) as surgery:
        found = logits((model, surgery), [PLANS["oracle"]], ids)
    with install(exact := make_model(), AdapterBank(library)) as surgery:
        expected = logits((exact, surgery), [PLANS["oracle"]], ids)
    assert found.dtype == dtype
    error = (found.float() - expected).norm() / expected.norm()
    assert error < 0.05


def test_candidates_restrict_a_slot_to_adapters_of_its_kind(
    routed, make_model, make_adapters, memory_library, token_ids
):
    names, ids = {"task2", "doc3", "doc4"}, token_ids()
    among = logits(routed, [Plan.from_mode("lag", candidates=names)], ids)
    few = [adapter for adapter in make_adapters() if adapter.name in names]
    model = make_model(dtype=torch.float64)
    with install(model, AdapterBank(memory_library(few, torch.float64))) as surgery:
        alone = logits((model, surgery), [Plan.from_mode("lag")], ids)
    torch.testing.assert_close(among, alone, **CLOSE)


def test_a_slot_without_adapters_of_its_kind_applies_nothing_visibly(
    make_model, make_adapters, memory_library, token_ids
):
    model, ids = make_model(), token_ids()
    documents = [adapter for adapter in make_adapters() if adapter.kind == "knowledge"]
    base, recorder = model(ids).logits, Recorder()
    with install(model, AdapterBank(memory_library(documents))) as surgery:
        found = logits((model, surgery), [Plan.from_mode("rag+lag")], ids, recorder)
    assert torch.equal(found, base)
    assert recorder.decisions() == []


def test_an_unknown_name_is_refused_before_any_forward_with_near_matches(routed):
    _, surgery = routed
    for plan in (
        Plan.from_mode("prag", adapters=["doc11"]),
        Plan.from_mode("lag", candidates=["task1", "doc11"]),
    ):
        with pytest.raises(AdapterNotFoundError, match=r"Did you mean.*'doc1'"):
            surgery.activate([plan]).__enter__()
    with pytest.raises(AdapterNotFoundError, match="List the library"):
        surgery.activate([Plan.from_mode("prag", adapters=["zzz"])]).__enter__()


def test_an_adapter_pinned_in_the_other_kinds_slot_is_refused(routed):
    _, surgery = routed
    with pytest.raises(PlanError, match="'task1' of the other kind"):
        surgery.activate([Plan.from_mode("prag", adapters=["task1"])]).__enter__()


def test_a_batch_needs_a_plan(routed):
    with pytest.raises(PlanError, match="Found none"):
        routed[1].activate([]).__enter__()


def test_plans_that_do_not_match_the_batch_are_refused(routed, token_ids):
    with pytest.raises(ModelError, match="2 plans"):
        logits(routed, [PLANS["lag"], PLANS["base"]], token_ids(3))


def test_consecutive_tokens_of_different_requests_are_told_apart(routed, token_ids):
    """As in a packed batch: one row, whose tokens belong to three requests."""
    model, surgery = routed
    x = torch.randn(1, 9, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    linear = model.get_submodule(surgery.modules[0])
    names = ["prag+lag", "base", "lag"]
    first, last = Recorder(), Recorder()
    plans = [surgery.resolve(PLANS[name]) for name in names]
    parts = [
        Part(plan, n_tokens, 1, recorder)
        for plan, n_tokens, recorder in zip(plans, (4, 3, 2), (first, None, last), strict=True)
    ]

    def alone(plan, tokens):
        with surgery.activate([plan]):
            return linear(tokens)

    def expected(pieces):
        outs = [alone(PLANS[name], piece) for name, piece in zip(names, pieces, strict=True)]
        return torch.cat(outs, dim=1)

    with torch.no_grad():
        with surgery.activate(parts):
            packed, kept = linear(x), linear(x[:, [3, 6, 8]])
        torch.testing.assert_close(packed, expected(x.split((4, 3, 2), dim=1)), **CLOSE)
        torch.testing.assert_close(kept, expected(x[:, [3, 6, 8]].split(1, dim=1)), **CLOSE)
    assert {len(item.rows) for item in first.decisions()} == {4 + 1}
    assert {len(item.rows) for item in last.decisions()} == {2 + 1}
    pinned = [item for item in first.decisions() if item.slot == "knowledge"]
    assert all(item.scores[item.rows >= 0].isnan().all() for item in pinned)


def test_a_floor_that_nothing_reaches_keeps_all_on_the_base_visibly(routed, token_ids):
    recorder = Recorder()
    logits(routed, [Plan.from_mode("lag", floor=1e9)], token_ids(), recorder)
    assert recorder.decisions()
    assert all((item.rows == -1).all() for item in recorder.decisions())


def test_a_pinned_adapter_that_skips_a_module_is_visible_there(routed, make_adapters, token_ids):
    adapter = next(a for a in make_adapters() if a.name == "doc1")
    recorder = Recorder()
    logits(routed, [Plan.from_mode("prag", adapters=["doc1"])], token_ids(), recorder)
    decisions = recorder.decisions()
    skipped = {item.module for item in decisions if (item.rows == -1).all()}
    assert skipped
    assert {item.module for item in decisions} - skipped == set(adapter.modules)


def test_recording_changes_no_answer(routed, token_ids):
    ids = token_ids()
    plain = logits(routed, [PLANS["lag"]], ids)
    assert torch.equal(logits(routed, [PLANS["lag"]], ids, Recorder()), plain)


def test_a_long_prefill_is_chunked_without_changing_it(routed, token_ids, monkeypatch):
    ids = token_ids(3, 11)
    whole = logits(routed, [PLANS["lag"], PLANS["arrow"], PLANS["lag"]], ids)
    monkeypatch.setattr("lag_engine.model.resolved.CHUNK_TOKENS", 4)
    chunked = logits(routed, [PLANS["lag"], PLANS["arrow"], PLANS["lag"]], ids)
    torch.testing.assert_close(chunked, whole, **CLOSE)


def test_only_the_named_candidates_are_read(routed, token_ids):
    plan = Plan("custom", knowledge=Routed(LAG(), ["doc1", "doc2"]))
    recorder = Recorder()
    logits(routed, [plan], token_ids(), recorder)
    used = {
        item.names[row] for item in recorder.decisions() for row in item.rows.flatten() if row >= 0
    }
    assert used == {"doc1", "doc2"}
