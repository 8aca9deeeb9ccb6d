"""How a row's next token is chosen, each row by its own settings and its own random numbers."""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lag_engine.errors import GenerationError

if TYPE_CHECKING:
    from lag_engine.model.generation import Request


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """One request's sampling settings, checked when made.

    Args:
        max_new_tokens: the most tokens to generate; at least 1; the context may end it sooner.
        temperature: 0 takes the likeliest token; otherwise the logits are divided by it.
        top_p: keep the smallest set of likeliest tokens whose probability reaches it; in (0, 1].
        top_k: keep the likeliest `top_k` tokens; None keeps all.
        repetition_penalty: divides the positive and multiplies the negative logits of the tokens
            already in the row, prompt included; 1 changes nothing.
        seed: of this row's own random numbers; None draws one.
        stop: strings that end the text; the text is cut before them.

    Raises:
        GenerationError: a setting is outside its range.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int | None = None
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "stop", _as_strings(self.stop))
        _check_integer("max_new_tokens", self.max_new_tokens, low=1)
        _check_number("temperature", self.temperature, "of at least 0", allow_zero=True)
        _check_number("top_p", self.top_p, "in (0, 1]", high=1.0)
        _check_number("repetition_penalty", self.repetition_penalty, "above 0")
        if self.top_k is not None:
            _check_integer("top_k", self.top_k, low=1)
        if self.seed is not None:
            _check_integer("seed", self.seed, low=0, high=2**63 - 1)

    @property
    def is_greedy(self) -> bool:
        """Whether the likeliest token is always taken."""
        return self.temperature == 0.0


def checked_logprobs(value: object) -> int | None:
    """How many of the likeliest tokens are told with each token's log-probability.

    Raises:
        GenerationError: it is neither None nor an integer of at least 0.
    """
    if value is not None:
        _check_integer("logprobs", value, low=0)
    return value  # type: ignore[return-value]


def _as_strings(stop: object) -> tuple[str, ...]:
    if stop is None:
        return ()
    strings = (stop,) if isinstance(stop, str) else stop
    if not isinstance(strings, Sequence) or not all(isinstance(s, str) and s for s in strings):
        raise GenerationError(
            "Expected `stop` to be a string or a sequence of strings, none of them empty",
            f"got {stop!r}",
            "leave `stop` out to generate until the model ends its answer",
        )
    return tuple(dict.fromkeys(strings))


def _check_integer(name: str, value: object, *, low: int, high: int | None = None) -> None:
    number = value if isinstance(value, int) and not isinstance(value, bool) else low - 1
    if low <= number and (high is None or number <= high):
        return
    limit = f"of at least {low}" if high is None else f"from {low} to {high}"
    raise _out_of_range(name, f"an integer {limit}", value)


def _check_number(
    name: str, value: object, limit: str, *, high: float = math.inf, allow_zero: bool = False
) -> None:
    number = value if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    if math.isfinite(number) and (0 < number <= high or (allow_zero and number == 0)):
        return
    raise _out_of_range(name, f"a number {limit}", value)


def _out_of_range(name: str, meaning: str, value: object) -> GenerationError:
    return GenerationError(
        f"Expected `{name}` to be {meaning}", f"got {value!r}", f"Pass another `{name}`"
    )


def warp(scores: Tensor, sampling: Sampling) -> Tensor:
    """The scores after temperature, top-k and top-p, in this order.

    Args:
        scores: one row's logits; (V,); float32.
        sampling: the row's settings; its temperature is above 0.

    Returns:
        Scores whose softmax is the distribution to draw from; (V,); -inf where a token is excluded.
    """
    scores = (scores - scores.max()) / sampling.temperature  # (V,), at most 0: any divisor is safe
    if sampling.top_k is not None and sampling.top_k < scores.numel():
        kth = scores.topk(sampling.top_k).values[-1]
        scores = scores.masked_fill(scores < kth, -math.inf)
    if sampling.top_p < 1.0:
        scores = scores.masked_fill(_outside_nucleus(scores, sampling.top_p), -math.inf)
    return scores


def _outside_nucleus(scores: Tensor, top_p: float) -> Tensor:
    ordered, order = scores.sort(descending=True, stable=True)  # (V,)
    probability = ordered.softmax(-1)
    # A token stays while the likelier ones together have not reached top_p: the first always does.
    dropped = probability.cumsum(-1) - probability >= top_p  # (V,)
    dropped[0] = False
    return torch.zeros_like(dropped).scatter(0, order, dropped)


class TokenChooser:
    """Turns one row's logits into scores whose argmax is its next token.

    In this order: the guide's mask, the repetition penalty, then, unless the row is greedy, the
    warp and Gumbel noise. Adding Gumbel noise to log-probabilities and taking the largest draws
    exactly from the softmax (the Gumbel-max trick). The noise comes from the row's own generator,
    on the CPU, so that a row's tokens depend neither on its batch mates nor on the device.

    Args:
        request: the row's prompt, settings and guide.
    """

    def __init__(self, request: Request) -> None:
        self.sampling = request.sampling
        self._prompt_ids = request.prompt_ids
        self._matcher = None if request.guide is None else request.guide.matcher()
        self._generator = None if self.sampling.is_greedy else _generator(self.sampling)
        self._n_likeliest = request.logprobs
        self._distribution: Tensor | None = None
        self.likelihoods: list[list[tuple[int, float]]] | None = (
            None if request.logprobs is None else []
        )
        """For each token, its id and log-probability, then those of the likeliest; if asked for."""

    @property
    def is_plain(self) -> bool:
        """Whether the largest logit is always taken, and nothing else is asked of the logits."""
        sampling = self.sampling
        is_unguided = self._matcher is None and self.likelihoods is None
        return sampling.is_greedy and sampling.repetition_penalty == 1.0 and is_unguided

    @property
    def is_finished(self) -> bool:
        """Whether the guide lets nothing follow but the end."""
        return self._matcher is not None and self._matcher.is_finished

    def scores(self, scores: Tensor, generated: Sequence[int]) -> Tensor:
        """The scores to take the argmax of.

        Args:
            scores: the row's logits at its last position; (V,); float32; left unchanged.
            generated: the row's tokens after its prompt.

        Returns:
            (V,); -inf where a token is excluded.
        """
        if self._matcher is not None:
            allowed = self._matcher.mask(scores.shape[-1]).to(scores.device)  # (V,)
            scores = scores.masked_fill(~allowed, -math.inf)
        if self.likelihoods is not None:
            self._distribution = scores
        if self.sampling.repetition_penalty != 1.0:
            seen = torch.tensor([*self._prompt_ids, *generated], device=scores.device)
            scores = _penalise(scores, seen, self.sampling.repetition_penalty)
        if self._generator is None:
            return scores
        return warp(scores, self.sampling) + _gumbel(scores, self._generator)

    def accept(self, token_id: int) -> None:
        """Takes the token that was chosen."""
        if self._matcher is not None:
            self._matcher.accept(token_id)
        if self.likelihoods is not None and self._distribution is not None:
            self.likelihoods.append(_likelihoods(self._distribution, token_id, self._n_likeliest))


def _likelihoods(scores: Tensor, token_id: int, n: int | None) -> list[tuple[int, float]]:
    logprobs = scores.log_softmax(-1)  # (V,)
    n_possible = int((logprobs > -math.inf).sum())
    top = logprobs.topk(min(n or 0, n_possible))
    likeliest = zip(top.indices.tolist(), top.values.tolist(), strict=True)
    return [(token_id, float(logprobs[token_id])), *likeliest]


def _gumbel(like: Tensor, generator: torch.Generator) -> Tensor:
    exponential = torch.empty(like.shape[-1]).exponential_(generator=generator)
    return -exponential.clamp_min(1e-38).log().to(like.device)  # (V,)


def _penalise(scores: Tensor, seen: Tensor, penalty: float) -> Tensor:
    values = scores[seen]
    return scores.index_put((seen,), torch.where(values > 0, values / penalty, values * penalty))


def _generator(sampling: Sampling) -> torch.Generator:
    seed = secrets.randbits(63) if sampling.seed is None else sampling.seed
    return torch.Generator().manual_seed(seed)
