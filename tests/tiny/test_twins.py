"""Words after a quote: their embeddings are the known words', and the base never writes them."""

from __future__ import annotations

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lag_engine.tiny.corpus import ROW_TOKENS, Corpus
from lag_engine.tiny.shipped import SEED, model_path
from lag_engine.tiny.twins import SEEN, twin_ids


def shipped():
    return (
        AutoModelForCausalLM.from_pretrained(model_path(), dtype=torch.float32),
        AutoTokenizer.from_pretrained(model_path()),
    )


def test_twins_differ_from_their_words_by_one_direction():
    model, tokenizer = shipped()
    weight = model.get_input_embeddings().weight.detach()
    spaced, bare = twin_ids(tokenizer)
    away = weight[bare] - weight[spaced]
    assert len(spaced) > 700
    # Both are stored in bfloat16.
    torch.testing.assert_close(away, away.mean(0).expand_as(away), atol=0.03, rtol=0)
    assert away.mean(0).norm() > 1


def test_a_twin_is_the_token_behind_a_quote():
    _, tokenizer = shipped()
    spaced, bare = (ids.tolist() for ids in twin_ids(tokenizer))
    for word, with_space, without in zip(("Rosa", "weather"), spaced, bare, strict=False):
        del with_space, without
        ids = tokenizer(f'"{word}', add_special_tokens=False)["input_ids"]
        assert ids[-1] in bare
        assert spaced[bare.index(ids[-1])] == tokenizer.convert_tokens_to_ids(f"Ġ{word}")
    for word in SEEN:
        assert tokenizer.convert_tokens_to_ids(f"Ġ{word}") not in spaced


@torch.no_grad()
def test_the_base_hardly_ever_writes_a_twin():
    model, tokenizer = shipped()
    _, bare = twin_ids(tokenizer)
    corpus = Corpus(tokenizer, seed=SEED, stream="twins test")
    written = []
    for kind in ("reading", "recall"):
        for _ in range(15):
            row = corpus.row(kind)
            ids = torch.tensor([row.ids[: ROW_TOKENS - 1]])
            is_answer = torch.tensor(row.weights[1:ROW_TOKENS]) > 0
            answered = model(input_ids=ids).logits[0, : len(is_answer)].argmax(-1)
            written.append(answered[is_answer])
    assert torch.isin(torch.cat(written), bare).float().mean() < 0.002
