"""Log-probabilities: of the model's distribution after the guide, before temperature."""

from __future__ import annotations

import math

import pytest
import torch

from lag_engine.errors import GenerationError
from lag_engine.model.guided import Guide


def reference(engine, answer):
    """The log-probabilities at each written token, from one full forward."""
    ids = torch.tensor([[*answer.prompt_token_ids, *answer.token_ids]])
    logits = engine.logits(ids, plan="base")[0, len(answer.prompt_token_ids) - 1 : -1]
    return logits.log_softmax(-1)  # (T, V)


@pytest.mark.parametrize("options", [{}, {"temperature": 0.5, "seed": 3, "top_k": 5}])
def test_they_are_the_models_own_whatever_is_drawn(engine, options):
    answer = engine.generate("Who?", plan="base", max_new_tokens=8, logprobs=3, **options)
    expected = reference(engine, answer)
    assert len(answer.logprobs) == len(answer.token_ids) == 8
    for told, token_id, row in zip(answer.logprobs, answer.token_ids, expected, strict=True):
        assert told.token_id == token_id
        assert told.text == engine.tokenizer.decode([token_id])
        assert told.logprob == pytest.approx(float(row[token_id]), abs=1e-4)
        values, ids = row.topk(3)
        assert [t.token_id for t in told.top] == ids.tolist()
        assert [t.logprob for t in told.top] == pytest.approx(values.tolist(), abs=1e-4)
        assert all(t.top == () for t in told.top)


def test_the_answer_is_the_same_with_and_without_them(engine):
    for options in ({}, {"temperature": 1.0, "seed": 1}, {"repetition_penalty": 1.4}):
        with_them = engine.generate("Who?", max_new_tokens=9, logprobs=0, **options)
        without = engine.generate("Who?", max_new_tokens=9, **options)
        assert with_them.token_ids == without.token_ids
        assert without.logprobs is None
        assert all(told.top == () for told in with_them.logprobs)


def test_after_a_guide_only_what_may_come_has_any(engine):
    answer = engine.generate("a", guide=Guide.choices(["b", "c"]), logprobs=20)
    [told] = answer.logprobs
    assert len(told.top) == 2
    assert sum(math.exp(t.logprob) for t in told.top) == pytest.approx(1.0)


@pytest.mark.parametrize("value", [-1, 1.5, True, "all"])
def test_another_number_of_them_is_refused(engine, value):
    with pytest.raises(GenerationError, match="logprobs"):
        engine.generate("a", logprobs=value)


def test_a_streams_pieces_carry_their_tokens_log_probabilities(engine):
    options = {"max_new_tokens": 12, "logprobs": 2, "plan": "base"}
    pieces = list(engine.stream("Who?", **options))
    assert (
        sum((piece.logprobs for piece in pieces), ()) == engine.generate("Who?", **options).logprobs
    )
    assert all(len(piece.logprobs) == len(piece.token_ids) for piece in pieces)
    assert all(piece.logprobs is None for piece in engine.stream("a", max_new_tokens=2))
