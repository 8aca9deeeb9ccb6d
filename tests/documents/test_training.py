"""Adapters trained in a stack come out as if each was trained alone, and as PEFT trains them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy

from lag_engine.documents.training import (
    StackedBatch,
    StackedLora,
    TrainingOptions,
    _clip_each,
    train_stacked,
)
from lag_engine.errors import AdapterError, AdapterMismatchError

TARGETS = (
    "model.layers.0.self_attn.q_proj",
    "model.layers.0.mlp.down_proj",
    "model.layers.1.self_attn.v_proj",
    "model.layers.1.mlp.gate_proj",
)
FIRST = ("model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.v_proj")
"""Modules whose input no adapter of these modules changes."""
STEPS = 6
COUNT = 3
OPTIONS = TrainingOptions(rank=2, alpha=3, precision="fp32", lora_a_decay=0.1, seed=5)


@pytest.fixture
def model(make_model):
    return make_model("llama")


def batches(*, count=COUNT, steps=STEPS, rows=2, tokens=9, seed=0):
    """Random batches; the first row of each adapter is for its tokens, the second is silent."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(steps):
        ids = torch.randint(3, 64, (count, rows, tokens), generator=generator)
        weights = torch.randint(0, 3, ids.shape, generator=generator).float()
        weights[:, 1:] = 0.0
        weights[:, 0, -1] = 1.0
        silent = torch.zeros(ids.shape, dtype=torch.bool)
        silent[:, 1:, 1:] = True
        made.append(StackedBatch(ids, weights, silent))
    return made


def of_adapter(batch, g):
    return StackedBatch(*(part[g : g + 1] for part in batch))


def train(model, data, *, count=COUNT, options=OPTIONS, targets=TARGETS, steps=None, **kw):
    return train_stacked(
        model, data, count=count, steps=steps or len(data), targets=targets, options=options, **kw
    )


def assert_same(ours, theirs, **tolerance):
    assert ours.keys() == theirs.keys()
    for name in ours:
        for mine, other in zip(ours[name], theirs[name], strict=True):
            torch.testing.assert_close(mine, other, msg=lambda m, n=name: f"{n}: {m}", **tolerance)


@pytest.mark.parametrize("silence", [0.0, 3.0])
@pytest.mark.parametrize("clip", [0.01, 1e9])
def test_adapters_trained_in_a_stack_equal_each_trained_alone(model, clip, silence):
    options = replace(OPTIONS, clip=clip, silence=silence)
    data = batches()
    stacked = train(model, data, options=options)
    for g in range(COUNT):
        alone = train(
            model,
            [of_adapter(batch, g) for batch in data],
            count=1,
            options=replace(options, seed=options.seed + g),
        )
        assert_same(stacked[g], alone[0], rtol=1e-3, atol=1e-5)


def test_an_adapter_does_not_depend_on_the_rows_of_another(model):
    data = batches()
    other = batches(seed=1)
    mixed = [
        StackedBatch(*(torch.cat([a[:1], b[1:]]) for a, b in zip(ours, theirs, strict=True)))
        for ours, theirs in zip(data, other, strict=True)
    ]
    options = replace(OPTIONS, silence=3.0)
    trained, again = (train(model, rows, options=options) for rows in (data, mixed))
    assert_same(trained[0], again[0], rtol=1e-4, atol=1e-6)
    for name in TARGETS:
        assert not torch.allclose(trained[1][name].lora_B, again[1][name].lora_B, atol=1e-4)


def test_adapters_of_one_stack_start_apart(model):
    trained = train(model, batches(), options=replace(OPTIONS, learning_rate=0.0))
    for name in TARGETS:
        starts = [adapter[name].lora_A for adapter in trained]
        assert not torch.equal(starts[0], starts[1])
        assert not any(adapter[name].lora_B.any() for adapter in trained)
        assert starts[0].abs().max() <= 1 / starts[0].shape[1] ** 0.5


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("clip", [0.05, 1e9])
def test_training_here_equals_training_with_peft(make_model, clip):
    options = replace(OPTIONS, clip=clip)
    data = [
        StackedBatch(b.ids, (b.weights > 0).float(), torch.zeros_like(b.silent))
        for b in batches(count=1, rows=3, steps=20)
    ]
    losses = []
    ours = train(
        make_model("llama"),
        data,
        count=1,
        options=options,
        on_step=lambda _, step: losses.append(step.tokens.item()),
    )[0]
    start = train(make_model("llama"), data, count=1, options=replace(options, learning_rate=0.0))
    theirs, their_losses = peft_training(make_model("llama"), data, start[0], options)
    torch.testing.assert_close(losses, their_losses, rtol=1e-4, atol=1e-5)
    assert_same(ours, theirs, rtol=2e-3, atol=2e-5)


def peft_training(model, data, start, options):
    """The same adapter trained by PEFT, transformers' own loss and a plain loop."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=options.rank, lora_alpha=options.alpha, target_modules=list(TARGETS), lora_dropout=0.0
    )
    peft = get_peft_model(model, config)
    layers = {name: peft.base_model.model.get_submodule(name) for name in TARGETS}
    down = {name: layer.lora_A["default"].weight for name, layer in layers.items()}
    up = {name: layer.lora_B["default"].weight for name, layer in layers.items()}
    with torch.no_grad():
        for name in TARGETS:
            down[name].copy_(start[name].lora_A)
    optimizer = torch.optim.AdamW(
        [
            {"params": list(down.values()), "weight_decay": options.lora_a_decay},
            {"params": list(up.values()), "weight_decay": 0.0},
        ],
        lr=options.learning_rate,
    )
    warmup = len(data) // 10
    falling = len(data) - warmup
    rates = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: (step + 1) / warmup if step < warmup else min(1, (len(data) - step) / falling),
    )
    losses = []
    for batch in data:
        labels = batch.ids[0].masked_fill(batch.weights[0] == 0, -100)
        # The first token is no target of either side; HF's mean counts the others with a label.
        loss = peft(input_ids=batch.ids[0], labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_([*down.values(), *up.values()], options.clip)
        optimizer.step()
        rates.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    trained = {
        name: (down[name].detach(), up[name].detach(), layers[name].scaling["default"])
        for name in TARGETS
    }
    return trained, losses


def test_losses_are_the_weighted_means_of_each_adapter(model):
    batch = batches(steps=1)[0]
    batch = batch._replace(weights=torch.rand(batch.weights.shape))
    seen = []
    train(model, [batch], on_step=lambda _, losses: seen.append(losses))
    for g in range(COUNT):
        with torch.no_grad():
            logits = model(input_ids=batch.ids[g]).logits[:, :-1]
        losses = cross_entropy(
            logits.flatten(0, 1), batch.ids[g, :, 1:].flatten(), reduction="none"
        )
        weights = batch.weights[g, :, 1:].flatten()
        expected = (losses * weights).sum() / weights.sum()
        torch.testing.assert_close(seen[0].tokens[g], expected)
    assert not seen[0].silence.any()  # a fresh adapter's update is zero


def test_only_the_proportion_of_weights_counts(model):
    data = batches()
    scaled = [batch._replace(weights=4.0 * batch.weights) for batch in data]
    for ours, theirs in zip(train(model, data), train(model, scaled), strict=True):
        assert_same(ours, theirs, rtol=1e-3, atol=1e-5)


def test_a_target_of_weight_zero_teaches_nothing(model):
    data = [b._replace(weights=b.weights.clone(), ids=b.ids.clone()) for b in batches()]
    for batch in data:
        batch.weights[:, :, -1] = 0.0
        batch.weights[:, 0, 1] = 1.0
    before = train(model, data)
    for batch in data:
        batch.ids[:, :, -1] = 3  # the last token is a target only
    for ours, theirs in zip(before, train(model, data), strict=True):
        assert_same(ours, theirs, rtol=0, atol=0)


def test_an_adapter_without_weights_stays_silent(model):
    data = [b._replace(weights=b.weights.clone()) for b in batches()]
    for batch in data:
        batch.weights[1] = 0.0
    trained = train(model, data)
    assert not any(part.lora_B.any() for part in trained[1].values())
    assert all(part.lora_B.any() for part in trained[0].values())


def test_the_silence_penalty_shrinks_the_update_on_silent_tokens(model):
    data = batches(steps=1) * 40
    sizes = {
        silence: silent_sizes(
            model,
            data[0],
            train(model, data, targets=FIRST, options=replace(OPTIONS, silence=silence)),
        )
        for silence in (0.0, 300.0)
    }
    assert (sizes[300.0] < 0.5 * sizes[0.0]).all()


def silent_sizes(model, batch, trained):
    """Each adapter's mean squared update on its silent tokens; (G,)."""
    inputs = {}
    hooks = [
        model.get_submodule(name).register_forward_pre_hook(
            lambda _, args, n=name: inputs.__setitem__(n, args[0].detach())
        )
        for name in FIRST
    ]
    sizes = []
    for g, adapter in enumerate(trained):
        with torch.no_grad():
            model(input_ids=batch.ids[g])
        silent = batch.silent[g]
        updates = [
            part.scaling * inputs[name][silent] @ part.lora_A.T @ part.lora_B.T
            for name, part in adapter.items()
        ]
        sizes.append(torch.stack([u.square().sum(-1).mean() for u in updates]).sum())
    for hook in hooks:
        hook.remove()
    return torch.stack(sizes)


def test_silence_zero_trains_as_without_silent_tokens(model):
    data = batches()
    plain = [b._replace(silent=torch.zeros_like(b.silent)) for b in data]
    for ours, theirs in zip(train(model, data), train(model, plain), strict=True):
        assert_same(ours, theirs, rtol=0, atol=0)


def test_the_reported_silence_is_the_relative_size_of_the_update(model):
    seen, data = [], batches(steps=2)
    train(model, data, targets=FIRST[:1], on_step=lambda _, losses: seen.append(losses.silence))
    after_one = train(model, data[:1], targets=FIRST[:1])
    sizes = []
    inputs = {}
    module = model.get_submodule(FIRST[0])
    hook = module.register_forward_pre_hook(lambda _, args: inputs.update(x=args[0].detach()))
    for g, adapter in enumerate(after_one):
        with torch.no_grad():
            model(input_ids=data[1].ids[g, :, :-1])
            part, x = adapter[FIRST[0]], inputs["x"]
            update = (part.scaling * x @ part.lora_A.T @ part.lora_B.T).square().sum(-1)
            base = (x @ module.weight.T).square().sum(-1)
        silent = data[1].silent[g, :, :-1]
        sizes.append(update[silent].sum() / base[silent].sum())
    hook.remove()
    torch.testing.assert_close(seen[1], torch.stack(sizes), rtol=1e-4, atol=1e-7)


def padded(batch, extra):
    """The same rows with more padding on the right, as beside an adapter with longer rows."""
    return StackedBatch(*(torch.nn.functional.pad(part, (0, extra)) for part in batch))


def test_padding_changes_nothing_without_the_penalty(model):
    data = batches()
    longer = train(model, [padded(batch, 7) for batch in data])
    for ours, theirs in zip(train(model, data), longer, strict=True):
        assert_same(ours, theirs, rtol=1e-3, atol=1e-5)


def test_padding_changes_nothing_with_the_penalty(model):
    options, data = replace(OPTIONS, silence=3.0), batches()
    longer = train(model, [padded(batch, 7) for batch in data], options=options)
    for ours, theirs in zip(train(model, data, options=options), longer, strict=True):
        for name, mine in ours.items():
            # Adam magnifies the rounding of a gradient near zero: compare whole updates.
            update, other = (part.lora_B @ part.lora_A for part in (mine, theirs[name]))
            assert (update - other).norm() < 0.02 * other.norm(), name


def test_gradients_are_clipped_for_each_adapter_over_all_its_modules():
    generator = torch.Generator().manual_seed(0)
    layers = [StackedLora(torch.nn.Linear(5, 4), COUNT, OPTIONS) for _ in range(2)]
    size = torch.tensor([1e-3, 1.0, 1e3]).reshape(-1, 1, 1)
    for layer in layers:
        for parameter in (layer.lora_A, layer.lora_B):
            parameter.grad = size * torch.randn(parameter.shape, generator=generator)
    before = [p.grad.clone() for layer in layers for p in (layer.lora_A, layer.lora_B)]
    _clip_each(layers, 0.5)
    after = [p.grad for layer in layers for p in (layer.lora_A, layer.lora_B)]
    for g, clipped in enumerate((False, True, True)):
        ours = torch.cat([p[g].flatten() for p in after])
        theirs = torch.cat([p[g].flatten() for p in before])
        expected = 0.5 * theirs / theirs.norm() if clipped else theirs
        torch.testing.assert_close(ours, expected)


def interrupted(data):
    yield data[0]
    raise KeyboardInterrupt


@pytest.mark.parametrize("midway", [False, True])
def test_the_model_is_left_bit_identical(model, token_ids, midway):
    ids = token_ids(2)
    model.model.layers[0].mlp.up_proj.weight.requires_grad_(False)
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    modules = dict(model.named_modules())
    with torch.no_grad():
        before = model(input_ids=ids).logits
    data = batches()
    if midway:
        with pytest.raises(KeyboardInterrupt):
            train(model, interrupted(data), steps=len(data))
    else:
        train(model, data)
    with torch.no_grad():
        after = model(input_ids=ids).logits
    assert torch.equal(before, after)
    assert {name: p.requires_grad for name, p in model.named_parameters()} == flags
    assert all(p.grad is None for p in model.parameters())
    now = dict(model.named_modules())
    assert now.keys() == modules.keys()
    assert all(now[name] is module for name, module in modules.items())


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("model.layers.7.self_attn.q_proj", "no such module"),
        ("q_proj", "no such module"),
        ("model.layers.0.self_attn", "LlamaAttention"),
        ("model.embed_tokens", "Embedding"),
        ("lm_head", "output embeddings"),
        (TARGETS[0], "twice"),
    ],
)
def test_a_target_that_cannot_be_trained_is_refused_and_nothing_is_left_behind(
    model, target, words
):
    modules = dict(model.named_modules())
    with pytest.raises(AdapterMismatchError, match=words) as caught:
        train(model, batches(), targets=[TARGETS[0], target])
    assert target in str(caught.value)
    assert dict(model.named_modules()) == modules
    assert all(p.requires_grad for p in model.parameters())


def test_conv1d_targets_are_refused(make_model):
    with pytest.raises(AdapterMismatchError, match="Conv1D"):
        train(make_model("gpt2"), batches(), targets=["transformer.h.0.attn.c_attn"])


def test_no_target_at_all_is_refused(model):
    with pytest.raises(AdapterMismatchError, match="at least one target"):
        train(model, batches(), targets=[])


def test_fp32_precision_refuses_a_model_in_half_precision(make_model):
    model = make_model("llama", dtype=torch.bfloat16)
    with pytest.raises(AdapterMismatchError, match="bfloat16"):
        train(model, batches())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bf16_precision_trains_float32_adapters_close_to_fp32(make_model, dtype):
    options = replace(OPTIONS, precision="bf16")
    losses = {"bf16": [], "fp32": []}
    data = batches(steps=1) * 20
    trained = train(
        make_model("llama", dtype=dtype),
        data,
        options=options,
        on_step=lambda _, step: losses["bf16"].append(step.tokens),
    )
    train(make_model("llama"), data, on_step=lambda _, step: losses["fp32"].append(step.tokens))
    assert {t.dtype for part in trained[0].values() for t in part[:2]} == {torch.float32}
    assert (losses["bf16"][-1] < losses["bf16"][0]).all()
    torch.testing.assert_close(
        torch.stack(losses["bf16"]), torch.stack(losses["fp32"]), rtol=0.05, atol=0.05
    )


def test_too_few_batches_are_an_error(model):
    with pytest.raises(AdapterError, match=r"Expected 7 batches.*ended after 6"):
        train(model, batches(), steps=STEPS + 1)


def test_no_more_batches_are_drawn_than_there_are_steps(model):
    endless = iter(batches())
    train(model, endless, steps=STEPS - 2)
    assert len(list(endless)) == 2


def test_a_batch_of_another_count_is_an_error(model):
    data = [*batches(steps=2), *batches(count=COUNT + 1, steps=1)]
    with pytest.raises(AdapterError, match=r"G = 3 adapters.*Batch 3 has shapes \(4, 2, 9\)"):
        train(model, data)


def test_a_batch_whose_parts_differ_in_shape_is_an_error(model):
    batch = batches(steps=1)[0]
    with pytest.raises(AdapterError, match=r"\(3, 2, 8\)"):
        train(model, [batch._replace(weights=batch.weights[:, :, 1:])])


@pytest.mark.gpu
def test_a_stack_on_the_gpu_equals_one_on_the_cpu(make_model):
    data = batches()
    options = replace(OPTIONS, silence=3.0)
    there = [StackedBatch(*(part.cuda() for part in batch)) for batch in data]
    trained = train(make_model("llama").cuda(), there, options=options)
    for ours, theirs in zip(
        trained, train(make_model("llama"), data, options=options), strict=True
    ):
        on_cpu = {name: (m.lora_A.cpu(), m.lora_B.cpu(), m.scaling) for name, m in ours.items()}
        assert_same(on_cpu, theirs, rtol=1e-2, atol=1e-4)
