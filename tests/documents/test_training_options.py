"""Every option of stacked training acts on each adapter as if it was trained alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lag_engine.documents.training import StackedBatch, train_stacked
from lag_engine.documents.training_options import TrainingOptions
from lag_engine.errors import AdapterError

TARGETS = ("model.layers.0.self_attn.q_proj", "model.layers.1.mlp.gate_proj")
COUNT = 3
OPTIONS = TrainingOptions(rank=2, alpha=4, precision="fp32", learning_rate=0.02)


@pytest.fixture
def model(make_model):
    return make_model("llama")


def batches(steps=8):
    """One batch, again and again, so that losses fall; adapters have rows of their own."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 64, (COUNT, 1, 9), generator=generator)
    return [StackedBatch(ids, torch.ones(ids.shape), torch.zeros(ids.shape).bool())] * steps


def train(model, data, **kw):
    kw = {"count": COUNT, "options": OPTIONS, **kw}
    return train_stacked(model, data, steps=len(data), targets=TARGETS, **kw)


def alone(model, data, g, **kw):
    rows = [StackedBatch(*(part[g : g + 1] for part in batch)) for batch in data]
    return train(model, rows, count=1, **kw)[0]


def assert_same(ours, theirs, **tolerance):
    for name in TARGETS:
        for mine, other in zip(ours[name], theirs[name], strict=True):
            torch.testing.assert_close(mine, other, **tolerance)


@pytest.mark.parametrize(
    "changes",
    [
        {"schedule": "constant", "clip": None, "lora_a_decay": 0.01, "lora_b_decay": 0.01},
        {"optimizer": "sgd", "learning_rate": 0.5},
        {"shared_lora_A": True},
    ],
    ids=["paper", "sgd", "shared lora_A"],
)
def test_with_these_options_a_stack_equals_each_adapter_alone(model, changes):
    options, data = replace(OPTIONS, **changes), batches()
    trained = train(model, data, options=options, seeds=[11, 12, 13])
    for g in range(COUNT):
        ours = alone(model, data, g, options=options, seeds=[11 + g])
        assert_same(trained[g], ours, rtol=1e-3, atol=1e-5)
        assert ours[TARGETS[0]].lora_B.any()


def test_seeds_decide_each_adapters_start(model):
    still = replace(OPTIONS, learning_rate=0.0)
    one, two, three = train(model, batches(1), options=still, seeds=[5, 6, 5])
    assert torch.equal(one[TARGETS[0]].lora_A, three[TARGETS[0]].lora_A)
    assert not torch.equal(one[TARGETS[0]].lora_A, two[TARGETS[0]].lora_A)


def test_a_shared_lora_a_is_one_for_all_and_stays_as_it_started(model):
    options = replace(OPTIONS, shared_lora_A=True, lora_a_decay=0.5)
    trained = train(model, batches(), options=options, seeds=[5, 6, 7])
    still = train(model, batches(1), options=replace(options, learning_rate=0.0))
    for name in TARGETS:
        assert all(torch.equal(a[name].lora_A, still[0][name].lora_A) for a in trained)
        assert not torch.equal(trained[0][name].lora_B, trained[1][name].lora_B)


def losses_of(model, data, **kw):
    """The losses of all steps; (steps, G)."""
    losses = []
    train(model, data, on_step=lambda _, step: losses.append(step.tokens), **kw)
    return torch.stack(losses)


def test_an_adapter_that_reaches_the_stop_loss_is_kept_as_it_was_then(model):
    data, running = batches(20), []
    unstopped = replace(OPTIONS, schedule="constant")
    stop_loss = losses_of(model, data, options=unstopped)[14].max().item()
    options = replace(unstopped, stop_loss=stop_loss, stop_window=2)
    trained = train(
        model, data, options=options, on_step=lambda _, losses: running.append(losses.is_running)
    )
    n_steps = torch.stack(running).sum(0).tolist()
    assert len(set(n_steps)) > 1, "the adapters should stop at different times"
    assert max(n_steps) == len(running) < len(data)
    for g, n in enumerate(n_steps):
        assert n % options.stop_window == 0
        ours = alone(model, data[:n], g, options=unstopped, seeds=[g])
        assert_same(trained[g], ours, rtol=1e-3, atol=1e-5)


def test_the_stop_loss_is_compared_with_the_mean_of_a_whole_window(model):
    options = replace(OPTIONS, schedule="constant")
    losses = losses_of(model, batches(9), options=options)
    last, mean = losses[2].max(), losses[:3].mean(0).max()
    assert last < mean
    stopped = replace(options, stop_loss=(last + mean).item() / 2, stop_window=3)
    assert len(losses_of(model, batches(9), options=stopped)) == 6


def test_training_works_on_a_thread_in_inference_mode(model):
    expected = train(model, batches())
    with torch.inference_mode():
        trained = train(model, batches())
    for ours, theirs in zip(trained, expected, strict=True):
        assert_same(ours, theirs, rtol=0, atol=0)


@pytest.mark.parametrize("wrong", [{"rank": 0}, {"alpha": -1}, {"clip": 0.0}, {"stop_window": 0}])
def test_options_that_mean_nothing_are_refused(wrong):
    with pytest.raises(AdapterError, match=f"{next(iter(wrong))}="):
        replace(OPTIONS, **wrong)
