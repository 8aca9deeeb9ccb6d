"""The engine's decoding on other architectures: cache, padding and routing agree."""

from __future__ import annotations

import pytest
import torch

from lag_engine.model.engine import LAGEngine

PROMPTS = [[3, 9, 10], [3, 11, 12, 13, 14, 15], [20]]


@pytest.fixture(params=["llama", "qwen2", "gemma", "gpt2"])
def family_engine(request, make_model, make_adapters, memory_library, byte_tokenizer):
    library = memory_library(make_adapters(request.param))
    library.base_model = None
    with LAGEngine(make_model(request.param), byte_tokenizer, library) as engine:
        yield engine


def full_forwards(engine, plan, prompt, n):
    """Greedy tokens without cache or padding, and the margin to the second best."""
    ids, margin = list(prompt), float("inf")
    for _ in range(n):
        best = engine.logits(torch.tensor([ids]), plan=plan)[0, -1].topk(2)
        margin = min(margin, float(best.values[0] - best.values[1]))
        ids.append(int(best.indices[0]))
    return tuple(ids[len(prompt) :]), margin


def test_cached_padded_rows_equal_full_forwards_of_each_alone(family_engine):
    plans = ["lag", "base", "arrow"]
    answers = family_engine.generate_batch(PROMPTS, plans=plans, max_new_tokens=5)
    for answer, plan, prompt in zip(answers, plans, PROMPTS, strict=True):
        expected, margin = full_forwards(family_engine, plan, prompt, len(answer.token_ids))
        assert margin > 1e-4, "a tie would make the comparison meaningless"
        assert answer.token_ids == expected
