"""Who is chosen for a token: Arrow, SpectR and LAG.

Every router sees the inputs of one module and that module's stack, and decides for each token from
that token's input alone: the choice is causal and safe with a KV cache.

Ties go to the adapter that joined the library first (the lowest row). Scores that differ by less
than float rounding count as tied, so the same adapters win whatever the shape of the batch was.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lag_engine.errors import PlanError
from lag_engine.routing.choice import NOT_APPLIED, Choice, nothing, settle
from lag_engine.routing.products import GROUPED, Form, Stack, row_chunks
from lag_engine.routing.scores import (
    SCORES,
    Score,
    accumulation_dtype,
    arrow_scores,
    rerank_scores,
    rerank_tolerance,
    rounding_tolerance,
)
from lag_engine.routing.ties import best_column, top_columns


@dataclass(frozen=True)
class Arrow:
    """Chooses the `top_k` largest |a*.x|, weighted by a softmax over them (arXiv 2405.11157).

    Outputs are mixed as in PEFT; mttl merges A and B apart, which adds cross terms (equal for
    top_k = 1).

    Args:
        top_k: adapters mixed.
        temperature: of the softmax.
        approximate: as LAG's.

    Raises:
        PlanError: `top_k` below 1, a temperature that is not positive, or an `approximate` that
            is no bool.
    """

    top_k: int = 1
    temperature: float = 1.0
    approximate: bool = False

    def __post_init__(self) -> None:
        _require_count("top_k", self.top_k)
        require_bool("approximate", self.approximate)
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise PlanError(
                "Expected a softmax temperature above 0",
                f"Found temperature={self.temperature!r}",
                "Pass a positive number; a small one comes near top-1",
            )

    @property
    def name(self) -> str:
        """The router's name in traces."""
        return "arrow"

    def route(
        self, x: Tensor, stack: Stack, *, allowed: Tensor | None = None, form: Form = GROUPED
    ) -> Choice:
        """Returns the top_k adapters by arrow score; see `Router.route`."""
        if stack.arrow.shape[0] == 0:
            return nothing(x, stack)
        scores = _masked(arrow_scores(x, stack.arrow), allowed)  # (T, N)
        rows, scores = _top_rows(scores, self.top_k, rounding_tolerance(x))
        weights = _softmax(scores / self.temperature)
        return settle(rows, weights, form.project(x, rows, stack), scores)


@dataclass(frozen=True)
class SpectR:
    """Chooses the `top_k` best scores of the whole library, equally weighted (arXiv 2504.03454).

    Evaluates all N adapters for every token, a bounded number at a time: the exact, expensive end
    of LAG. Outputs are mixed; the authors' code merges A and B apart.

    Raises:
        PlanError: `top_k` below 1, or an unknown score.
    """

    top_k: int = 1
    score: Score = "projection"

    def __post_init__(self) -> None:
        _require_count("top_k", self.top_k)
        _require_score(self.score)

    @property
    def name(self) -> str:
        """The router's name in traces."""
        return "spectr"

    def route(
        self, x: Tensor, stack: Stack, *, allowed: Tensor | None = None, form: Form = GROUPED
    ) -> Choice:
        """Returns the top_k adapters by the chosen score; see `Router.route`."""
        if stack.arrow.shape[0] == 0:
            return nothing(x, stack)
        scores, z = self._score_all(x, stack, allowed, form)  # (T, N), (T, N, R) or None
        tolerance = rerank_tolerance(rounding_tolerance(x), stack.singular, self.score)
        rows, scores = _top_rows(scores, self.top_k, tolerance)
        z = form.project(x, rows, stack) if z is None else _taken(z, rows)  # (T, K, R)
        chosen = torch.isfinite(scores)
        weights = chosen.to(scores) / chosen.sum(-1, keepdim=True).clamp(min=1)
        return settle(rows, weights, z, scores)

    def _score_all(
        self, x: Tensor, stack: Stack, allowed: Tensor | None, form: Form
    ) -> tuple[Tensor, Tensor | None]:
        """Returns every score, and the projections where all of them fit in one chunk."""
        n_adapters, rank = stack.singular.shape
        rows = torch.arange(n_adapters, device=x.device)
        chunks = list(row_chunks(rows if allowed is None else rows[allowed], rank * max(x.shape)))
        if allowed is None and len(chunks) == 1:
            z = form.project(x, rows, stack)  # (T, N, R)
            return rerank_scores(z, stack.singular.to(z), self.score), z
        scores = x.new_full((len(x), n_adapters), -torch.inf, dtype=accumulation_dtype(x))
        for chunk in chunks:
            z = form.project(x, chunk, stack)  # (T, n, R)
            scores[:, chunk] = rerank_scores(z, stack.singular[chunk].to(z), self.score)
        return scores, None


@dataclass(frozen=True)
class LAG:
    """Retrieves by arrow score, reranks the retrieved, applies the best one (arXiv 2507.05346).

    A hard argmax: one adapter a token, weight 1. `retrieve_k` is clamped to N; 1 is Arrow top-1, N
    is SpectR top-1.

    With ``retrieve_k="adaptive"`` each token reranks every adapter whose arrow score is at least
    `keep` times the token's best, never fewer than `k_min` nor more than `k_max`, the highest.
    This guarantees that Arrow's winner is always reranked, that a token with one clear direction
    pays for `k_min` adapters only, and that no token pays for more than `k_max`. It does not
    guarantee SpectR's winner, whose arrow score may be small; ``keep=0`` with ``k_max >= N`` does.

    Args:
        retrieve_k: candidates a token reranks, or "adaptive".
        score: the score that decides among them.
        floor: a best score below it leaves the token on the base, in units of the score.
        keep: share of the best arrow score, in [0, 1]; adaptive only.
        k_min: least number of candidates; adaptive only.
        k_max: largest number of candidates; adaptive only.
        approximate: permits that retrieval misses an adapter. Where the compiled operator runs
            on a processor with AVX-512 VNNI, over 512 adapters or more of 256 inputs or more, it
            then reads arrow vectors in four bits, half of the exact scan's bytes, for one or two
            tokens at a time, as decoding does. Prompts, other sizes, processors and forms stay
            exact. Of 10,506 choices among lag-tiny's trained adapters one was another, and four
            among 2,000 mixtures of them (`tests/benchmarks/bench_index.py`); nothing bounds it.

    Raises:
        PlanError: a count below 1, ``k_min > k_max``, `keep` outside [0, 1], an unknown score, a
            floor that is not finite, or an `approximate` that is no bool.
    """

    retrieve_k: int | Literal["adaptive"] = 20
    score: Score = "projection"
    floor: float | None = None
    keep: float = 0.5
    k_min: int = 1
    k_max: int = 64
    approximate: bool = False

    def __post_init__(self) -> None:
        if self.retrieve_k != "adaptive":
            _require_count("retrieve_k", self.retrieve_k)
        _require_score(self.score)
        require_bool("approximate", self.approximate)
        _require_count("k_min", self.k_min)
        if self.k_max < self.k_min or not 0.0 <= self.keep <= 1.0:
            raise PlanError(
                "Expected k_min <= k_max and keep within [0, 1]",
                f"Found k_min={self.k_min!r}, k_max={self.k_max!r}, keep={self.keep!r}",
                "Give a bound of at least k_min, and a share of the best arrow score",
            )
        if self.floor is not None and not math.isfinite(self.floor):
            raise PlanError(
                "Expected a finite score floor",
                f"Found floor={self.floor!r}",
                "Pass None for no floor",
            )

    @property
    def name(self) -> str:
        """The router's name in traces."""
        return "lag"

    def route(
        self, x: Tensor, stack: Stack, *, allowed: Tensor | None = None, form: Form = GROUPED
    ) -> Choice:
        """Returns one adapter a token, or none below the floor; see `Router.route`."""
        if stack.arrow.shape[0] == 0:
            return nothing(x, stack)
        if self.retrieve_k != "adaptive" and self.retrieve_k >= stack.arrow.shape[0]:
            every = SpectR(1, self.score).route(x, stack, allowed=allowed, form=form)
            return settle(*every, floor=self.floor)
        tolerance = rounding_tolerance(x)  # (T, 1)
        rows = self._retrieve(x, stack, allowed, tolerance)  # (T, K)
        z = form.project(x, rows, stack)  # (T, K, R)
        singular = stack.singular[rows].to(z)  # (T, K, R)
        scores = rerank_scores(z, singular, self.score).masked_fill(rows < 0, -torch.inf)
        tolerance = rerank_tolerance(tolerance, singular, self.score)
        best = best_column(scores, rows, tolerance)  # (T, 1)
        rows, score, z = rows.gather(1, best), scores.gather(1, best), _taken(z, best)
        return settle(rows, torch.ones_like(score), z, score, floor=self.floor)

    def _retrieve(
        self, x: Tensor, stack: Stack, allowed: Tensor | None, tolerance: Tensor
    ) -> Tensor:
        """Returns each token's candidates, -1 where it has fewer; (T, K)."""
        scores = _masked(arrow_scores(x, stack.arrow), allowed)  # (T, N)
        limit = self.k_max if self.retrieve_k == "adaptive" else self.retrieve_k
        rows, top = _top_rows(scores, limit, tolerance)
        refused = top == -torch.inf  # (T, K)
        if self.retrieve_k != "adaptive":
            return rows.masked_fill(refused, NOT_APPLIED)
        refused |= top < self._threshold(top)
        rows = rows.masked_fill(refused, NOT_APPLIED).sort(dim=-1).values
        if not rows.numel():
            return rows
        return rows[:, min(rows.shape[1] - 1, int((rows < 0).sum(-1).min())) :]

    def _threshold(self, top: Tensor) -> Tensor:
        """Returns the arrow score a candidate needs; (T, 1)."""
        descending = top.sort(dim=-1, descending=True).values
        least = descending[:, min(self.k_min, top.shape[-1]) - 1].unsqueeze(-1)
        return torch.minimum(descending[:, :1] * self.keep, least)


def _masked(scores: Tensor, allowed: Tensor | None) -> Tensor:
    return scores if allowed is None else scores.masked_fill(~allowed, -torch.inf)


def _top_rows(scores: Tensor, k: int, tolerance: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the columns of the k best scores, clamped to N, and those scores; both (T, K)."""
    rows = top_columns(scores, min(k, scores.shape[-1]), tolerance)
    return rows, scores.gather(-1, rows)


def _taken(z: Tensor, columns: Tensor) -> Tensor:
    """Returns the projections of the given columns; (T, K, R)."""
    return z.gather(1, columns.unsqueeze(-1).expand(-1, -1, z.shape[-1]))


def _softmax(scores: Tensor) -> Tensor:
    """Returns a softmax over the last dimension; all zero where every score is -inf."""
    return torch.nan_to_num(torch.softmax(scores, dim=-1), nan=0.0)


def require_bool(name: str, value: bool) -> None:
    """Refuses what only stands for a bool: "false" would count as true."""
    if not isinstance(value, bool):
        raise PlanError(
            f"Expected {name} to be True or False",
            f"Found {name}={value!r}",
            "Pass the bool itself, not a text or a number for it",
        )


def _require_count(name: str, value: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise PlanError(
            f"Expected {name} to be a whole number of at least 1",
            f"Found {name}={value!r}",
            "Pass 1 or more; more than the library holds is clamped to its size",
        )


def _require_score(score: str) -> None:
    if score not in SCORES:
        raise PlanError(
            f"Expected one of the scores {', '.join(SCORES)}",
            f"Found score={score!r}",
            "Choose one; `projection` is the published score",
        )
