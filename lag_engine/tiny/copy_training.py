"""Trains where the copy heads look: repeated texts, calls' values, and silence on all that was.

Only queries and keys of the new heads are trained. The wide model has to stay the old one where
that knows the answer: on its own rows their difference (Kullback-Leibler) is kept small.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from lag_engine.tiny.copy_heads import widened
from lag_engine.tiny.corpus import Batch, Corpus
from lag_engine.tiny.tool_rows import ToolRow, ToolRows, padded_rows

STEPS = 800
PEAK_LR = 2e-3
COOLDOWN_SHARE = 0.5
CALL_ROWS, COPY_ROWS, OLD_ROWS = 12, 16, 10
COPY_SHARE = 0.25
"""Share of the steps that repeat texts; the others write calls."""
OLD_WEIGHT = 5.0
OLD_MIX = {"documents": 0.1, "reading": 0.6, "recall": 0.3}
SIZED_ON = 40
"""Prompts from which the new norms' sizes are taken."""


def with_copy_heads(
    base: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    *,
    seed: int,
    steps: int = STEPS,
    on_step: Callable[[int, float, float], None] | None = None,
) -> LlamaForCausalLM:
    """Returns the base with copy heads that look where they should.

    Args:
        base: The narrow base; float32; left as it was.
        tokenizer: Its tokenizer.
        seed: Of the codes and the rows.
        steps: Optimiser steps.
        on_step: Hears each step's loss on what is copied, and how far the old answers moved (nats
            a token).
    """
    rows = ToolRows(tokenizer, side="train", seed=seed)
    texts = [rows.case(rows.maker.case("call")).ids for _ in range(SIZED_ON)]
    model = widened(base, texts, seed=seed).requires_grad_(False)
    parameters = list(_looking(model, base.config.hidden_size))
    optimizer = torch.optim.AdamW(parameters, lr=PEAK_LR, weight_decay=0.0, betas=(0.9, 0.98))
    corpus = Corpus(tokenizer, seed=seed, stream="copy heads")
    batches = _batches(rows, corpus)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = PEAK_LR * _schedule(step, steps)
        copied = _weighted_loss(model, next(batches))
        copied.backward()
        moved = _difference(base, model, corpus.batch(OLD_ROWS, OLD_MIX).ids)
        (OLD_WEIGHT * moved).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if on_step is not None:
            on_step(step, copied.item(), moved.item())
    return model.requires_grad_(True)


def _looking(model: LlamaForCausalLM, old_width: int) -> Iterator[torch.nn.Parameter]:
    """Queries and keys above the layer that notes the tokens before; old heads get no gradient."""
    for layer in range(1, model.config.num_hidden_layers):
        for name in ("q_proj", "k_proj"):
            weight = model.get_parameter(f"model.layers.{layer}.self_attn.{name}.weight")
            weight.requires_grad_(True)
            weight.register_hook(lambda gradient: _below(gradient, old_width))
            yield weight


def _below(gradient: Tensor, first: int) -> Tensor:
    """The gradient with zeros above the first row of the new heads."""
    return torch.cat([torch.zeros_like(gradient[:first]), gradient[first:]])


def _batches(rows: ToolRows, corpus: Corpus) -> Iterator[Batch]:
    rng = random.Random(f"{rows.rng.random()}")
    calls = _calls(rows, rng)
    while True:
        if rng.random() >= COPY_SHARE:
            yield next(calls)
        elif rng.random() < 0.5:
            yield corpus.batch(COPY_ROWS, {"copy": 1.0})
        else:
            yield padded_rows([rows.copied() for _ in range(COPY_ROWS)])


def _calls(rows: ToolRows, rng: random.Random) -> Iterator[Batch]:
    """Calls and answers without their first token: whether to call is the adapter's to teach."""
    while True:
        drawn = [rows.row(copies=0.0, conversations=0.4) for _ in range(6 * CALL_ROWS)]
        drawn.sort(key=lambda row: len(row.ids))
        groups = [drawn[i : i + CALL_ROWS] for i in range(0, len(drawn), CALL_ROWS)]
        rng.shuffle(groups)
        for group in groups:
            yield padded_rows([_without_first(row) for row in group])


def _without_first(row: ToolRow) -> ToolRow:
    weights = [0.0 if i == row.start else weight for i, weight in enumerate(row.weights)]
    return ToolRow(row.ids, weights, row.start)


def _weighted_loss(model: LlamaForCausalLM, batch: Batch) -> Tensor:
    kept = batch.weights[:, 1:] > 0
    logits = _logits(model, batch.ids[:, :-1], kept)
    losses = cross_entropy(logits, batch.ids[:, 1:][kept], reduction="none")
    weights = batch.weights[:, 1:][kept]
    return (losses * weights).sum() / weights.sum()


def _difference(old: LlamaForCausalLM, new: LlamaForCausalLM, ids: Tensor) -> Tensor:
    """The mean Kullback-Leibler divergence of the new model's predictions from the old one's."""
    kept = torch.ne(ids, int(old.config.pad_token_id or 0))
    with torch.no_grad():
        wanted = _logits(old, ids, kept).log_softmax(-1)
    found = _logits(new, ids, kept).log_softmax(-1)
    return (wanted.exp() * (wanted - found)).sum(-1).mean()


def _logits(model: LlamaForCausalLM, ids: Tensor, kept: Tensor) -> Tensor:
    """Float32 logits of the places kept; (kept, V)."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = model.model(input_ids=ids).last_hidden_state
        logits: Tensor = model.lm_head(hidden[kept])
    return logits.float()


def _schedule(step: int, steps: int) -> float:
    """Linear warm-up over 30 steps, then constant, then linear descent to zero."""
    return min((step + 1) / 30, (steps - step) / (COOLDOWN_SHARE * steps), 1.0)
