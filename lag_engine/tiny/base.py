"""Trains the tiny base model: it reads documents it has never seen and knows its own world.

Muon for the hidden matrices and AdamW for the rest; bf16 autocast; checkpoints are resumed.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from lag_engine.tiny.corpus import Batch, Corpus, dev_rows
from lag_engine.tiny.tokenizer import build_tokenizer
from lag_engine.tiny.twins import add_twins

STEPS = 3000
BATCH_ROWS = 36
PEAK_LR = 3e-3
WARMUP_STEPS = 100
COOLDOWN_SHARE = 0.3
MEASURE_EVERY = 250
COPYING_STEPS = 500
COPYING_MIX = {"copy": 0.3, "documents": 0.05, "reading": 0.5, "recall": 0.15}
READING_MIX = {"copy": 0.05, "documents": 0.04, "reading": 0.67, "recall": 0.24}


def tiny_config(tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    """Four layers of width 256: about three million parameters."""
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def train_base(folder: Path, *, seed: int = 0, steps: int = STEPS) -> None:
    """Trains the model and writes it, its tokenizer and its log to ``folder``; resumes."""
    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    model = LlamaForCausalLM(tiny_config(tokenizer))
    model.model.compile()
    optimizers = _optimizers(model)
    corpus = Corpus(tokenizer, seed=seed)
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint, first = folder / "checkpoint.pt", 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=False)
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        corpus.rng.setstate(state["rng"])
        first = state["step"]
    started = time.monotonic()
    for step in range(first, steps):
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = _learning_rate(step, steps)
        batch = corpus.batch(BATCH_ROWS, COPYING_MIX if step < COPYING_STEPS else READING_MIX)
        loss = weighted_loss(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if (step + 1) % 25 == 0:
            rate = (step + 1 - first) / (time.monotonic() - started)
            line = {
                "step": step + 1,
                "loss": round(loss.item(), 4),
                "steps_per_second": round(rate, 3),
            }
            _log(folder, line)
        if (step + 1) % MEASURE_EVERY == 0 or step + 1 == steps:
            _log(folder, {"step": step + 1, **measure(model, tokenizer, seed=seed)})
            torch.save(
                {
                    "model": model.state_dict(),
                    "optimizers": [o.state_dict() for o in optimizers],
                    "rng": corpus.rng.getstate(),
                    "step": step + 1,
                },
                checkpoint,
            )
    add_twins(model.eval(), tokenizer, seed=seed)
    model.bfloat16().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def weighted_loss(model: LlamaForCausalLM, batch: Batch) -> torch.Tensor:
    """Weighted mean cross entropy; logits are made for weighted targets only."""
    targets, weights = batch.ids[:, 1:], batch.weights[:, 1:]
    kept = weights > 0  # (B, T - 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = model.model(input_ids=batch.ids[:, :-1]).last_hidden_state  # (B, T - 1, D)
        logits = model.lm_head(hidden[kept])  # (kept, V)
    losses = cross_entropy(logits.float(), targets[kept], reduction="none")
    return (losses * weights[kept]).sum() / weights[kept].sum()


@torch.no_grad()
def measure(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, *, seed: int, rows: int = 24
) -> dict[str, float]:
    """Share of answers whose every token is the argmax, by row kind, task and style."""
    hits: dict[str, list[bool]] = defaultdict(list)
    for kind in ("reading", "recall"):
        corpus = Corpus(tokenizer, seed=seed, stream="dev")
        for row in dev_rows(corpus, kind, rows):
            ids = torch.tensor([row.ids])
            guess = model(input_ids=ids).logits[0].argmax(-1)  # (T,)
            for span in row.spans:
                right = bool(
                    (guess[span.start - 1 : span.stop - 1] == ids[0, span.start : span.stop]).all()
                )
                hits[f"{kind}/{span.label}"].append(right)
                style = span.label.split("/")[1]
                hits[f"{kind}/{style}"].append(right)
    return {label: round(sum(h) / len(h), 3) for label, h in sorted(hits.items())}


def _optimizers(model: LlamaForCausalLM) -> list[torch.optim.Optimizer]:
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    return [
        torch.optim.Muon(matrices, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, weight_decay=0.0, betas=(0.9, 0.98)),
    ]


def _learning_rate(step: int, steps: int) -> float:
    """Linear warm-up, a constant stretch, then a linear descent to zero."""
    rising = (step + 1) / WARMUP_STEPS
    falling = (steps - step) / (COOLDOWN_SHARE * steps)
    return PEAK_LR * min(1.0, rising, falling)


def _log(folder: Path, line: dict[str, float]) -> None:
    with (folder / "log.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
