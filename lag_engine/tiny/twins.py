"""Words without a space before them get the embeddings of the same words with one.

Text makes every word a token with its space; in a call's JSON, the first word of a value follows a
quote and is another token, one the base model has hardly ever read or written. Its embedding is
replaced by the known word's plus one shared direction, away from everything the model writes: so
an adapter can name a known word after a quote, and the base still hardly ever does.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from lag_engine.tiny.corpus import ROW_TOKENS, Corpus

KINDS = ("reading", "recall", "documents", "copy")
ROWS = 400
"""Rows of each kind on which the direction is fitted."""
SCALE = 3.0
"""How many times the fitted margin of one nat the direction is."""
SEEN = frozenset({"Claim", "Question", "Hello", "Hi", "Good", "Text"})
"""Words the base reads without a space, after the blank line behind a document."""


@torch.no_grad()
def add_twins(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    *,
    seed: int,
    states: Tensor | None = None,
) -> int:
    """Replaces the embeddings.

    Args:
        model: The base; float32.
        tokenizer: Its tokenizer.
        seed: Of the rows the direction is fitted on.
        states: Further last hidden states at which no twin may be written; (P, D).

    Returns:
        How many words got one.
    """
    spaced, bare = twin_ids(tokenizer)
    found = _states(model, tokenizer, spaced, seed)
    away = _direction(found if states is None else torch.cat([found, states]))
    weight: Tensor = model.model.embed_tokens.weight
    weight[bare] = weight[spaced] + SCALE * away
    return len(bare)


def twin_ids(tokenizer: PreTrainedTokenizerFast) -> tuple[Tensor, Tensor]:
    """The ids of the words with their space, and of the same words without; both (W,)."""
    vocabulary = tokenizer.get_vocab()
    words = sorted(
        token[1:]
        for token in vocabulary
        if token.startswith("Ġ") and len(token) > 2 and token[1:] in vocabulary
    )
    words = [word for word in words if word not in SEEN]
    return (
        torch.tensor([vocabulary[f"Ġ{word}"] for word in words]),
        torch.tensor([vocabulary[word] for word in words]),
    )


def _states(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, spaced: Tensor, seed: int
) -> Tensor:
    """Last hidden states wherever the model writes a word with its space; (P, D)."""
    corpus = Corpus(tokenizer, seed=seed, stream="twins")
    found = []
    for kind in KINDS:
        for _ in range(ROWS):
            ids = torch.tensor([corpus.row(kind).ids[:ROW_TOKENS]])
            hidden = model.model(input_ids=ids).last_hidden_state[0]  # (T, D)
            written = model.lm_head(hidden).argmax(-1)  # (T,)
            found.append(hidden[torch.isin(written, spaced)])
    return torch.cat(found)


def _direction(states: Tensor) -> Tensor:
    """The shortest direction on which every state lies at -1 or below, by a squared hinge; (D,)."""
    direction = torch.zeros(states.shape[-1], requires_grad=True)
    optimizer = torch.optim.LBFGS([direction], max_iter=300, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = (1 + states @ direction).relu().square().mean() + 1e-4 * direction.square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)
    return direction.detach()
