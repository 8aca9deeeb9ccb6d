"""Log-probabilities as OpenAI tells them, in the forms of both kinds of reply."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lag_engine.model.generation import TokenLogprob

LOWEST = -9999.0
"""OpenAI's word for a probability of 0: JSON has no infinity."""


def chat(tokens: Sequence[TokenLogprob] | None) -> dict[str, Any] | None:
    """For a chat choice; None if they were not asked for."""
    if tokens is None:
        return None
    content = [
        {**_entry(token), "top_logprobs": [_entry(other) for other in token.top]}
        for token in tokens
    ]
    return {"content": content, "refusal": None}


def completion(tokens: Sequence[TokenLogprob] | None, *, offset: int = 0) -> dict[str, Any] | None:
    """For a choice of a completion; None if they were not asked for.

    Args:
        tokens: of the choice, or of a chunk of it.
        offset: where the first begins in the choice's text, in characters.
    """
    if tokens is None:
        return None
    ends = accumulate((len(token.text) for token in tokens), initial=offset)
    return {
        "tokens": [token.text for token in tokens],
        "token_logprobs": [_finite(token.logprob) for token in tokens],
        "top_logprobs": [{t.text: _finite(t.logprob) for t in token.top} for token in tokens],
        "text_offset": list(ends)[:-1],
    }


def _entry(token: TokenLogprob) -> dict[str, Any]:
    # Half of a character has bytes that its text does not tell.
    told = None if "\ufffd" in token.text else list(token.text.encode())
    return {"token": token.text, "logprob": _finite(token.logprob), "bytes": told}


def _finite(logprob: float) -> float:
    return max(logprob, LOWEST)
