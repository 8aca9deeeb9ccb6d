"""Log-probabilities as OpenAI tells them, in the forms of both kinds of reply."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lag_engine.model.generation import Generation

LOWEST = -9999.0
"""OpenAI's word for a probability of 0: JSON has no infinity."""


def chat(generation: Generation) -> dict[str, Any] | None:
    """For a chat choice; None if they were not asked for."""
    if generation.logprobs is None:
        return None
    content = [
        {
            **_entry(token.token, token.logprob),
            "top_logprobs": [_entry(other.token, other.logprob) for other in token.top],
        }
        for token in generation.logprobs
    ]
    return {"content": content, "refusal": None}


def completion(generation: Generation) -> dict[str, Any] | None:
    """For a choice of a completion; None if they were not asked for."""
    if generation.logprobs is None:
        return None
    tokens = [token.token for token in generation.logprobs]
    return {
        "tokens": tokens,
        "token_logprobs": [_finite(token.logprob) for token in generation.logprobs],
        "top_logprobs": [
            {other.token: _finite(other.logprob) for other in token.top}
            for token in generation.logprobs
        ],
        "text_offset": list(accumulate(map(len, tokens), initial=0))[:-1],
    }


def _entry(token: str, logprob: float) -> dict[str, Any]:
    return {"token": token, "logprob": _finite(logprob), "bytes": list(token.encode())}


def _finite(logprob: float) -> float:
    return max(logprob, LOWEST)
