"""The second stage, first half: the candidates, what they project, and their scores."""

from __future__ import annotations

import triton
import triton.language as tl

from lag_engine.model.kernels.gpu.largest import REFUSED, among_largest, kth_largest
from lag_engine.model.kernels.gpu.retrieve import UNROLLED, many_tokens, owner_of
from lag_engine.model.kernels.gpu.table import (
    ARROW_KIND,
    BY_ARROW,
    BY_NORM,
    BY_PROJECTION,
    FIELDS,
    K_MIN,
    KEEP,
    KIND,
    SCORE,
    K,
)

NO_ROW = tl.constexpr(-1)


@triton.jit
def candidate(scores, rows, router, tolerance, wanted):
    """Returns the row and arrow score of one of a token's candidates; NO_ROW, REFUSED for none.

    Args:
        scores: arrow scores of what the parts kept, in the order of rows; (1, W).
        rows: (1, W) int32.
        router: address of the router's numbers.
        tolerance: (1,).
        wanted: which candidate, in the order of rows.
    """
    one = tl.zeros((1,), tl.int32)
    is_chosen = among_largest(scores, one + tl.load(router + K).to(tl.int32), tolerance)
    k_min = tl.load(router + K_MIN).to(tl.int32)
    if k_min > 0:
        chosen = tl.where(is_chosen, scores, REFUSED)
        # With fewer than k_min of them this is the smallest, which keeps them all.
        least = kth_largest(chosen, one + k_min)
        needed = tl.minimum(tl.max(chosen, axis=1) * tl.load(router + KEEP), least)
        is_chosen = is_chosen & (scores >= needed[:, None])
    order = tl.cumsum(is_chosen.to(tl.int32), axis=1) - 1
    is_it = is_chosen & (order == wanted)
    row = tl.max(tl.max(tl.where(is_it, rows, NO_ROW), axis=1), axis=0)
    return row, tl.max(tl.max(tl.where(is_it, scores, REFUSED), axis=1), axis=0)


@triton.jit
def rerank_score(z, singular, by):
    """Returns the score of a projection, both (RANK,); see `routing/scores.py`."""
    is_first = tl.arange(0, z.shape[0]) == 0
    sized = z * singular
    length = tl.sqrt(tl.sum(tl.where(by == BY_PROJECTION, z * z, sized * sized), axis=0))
    frobenius = tl.sqrt(tl.sum(singular * singular, axis=0))
    relative = tl.where(frobenius > 0, length / tl.where(frobenius > 0, frobenius, 1.0), 0.0)
    alone = tl.sum(tl.where(is_first, tl.abs(z), 0.0), axis=0)
    scaled = tl.where((by == BY_PROJECTION) | (by == BY_NORM), length, relative)
    return tl.where(by == BY_ARROW, alone, scaled)


@triton.jit
def project_all(
    x,
    A,
    every,
    n_tokens,
    n_lines,
    d_in,
    TOKENS: tl.constexpr,
    LINES: tl.constexpr,
    STEP: tl.constexpr,
    HALF: tl.constexpr,
):
    """Fills A* x of all adapters; grid (blocks of lines, blocks of tokens).

    Args:
        x: (T, D_in).
        A: all lines of all A*; (n_lines, D_in).
        every: (T, n_lines) float32.
        n_tokens: T.
        n_lines: N times R.
        d_in: D_in.
        TOKENS: of a block; at least 16.
        LINES: of a block.
        STEP: columns read at a time.
        HALF: as for `retrieve`.
    """
    lines = tl.program_id(0) * LINES + tl.arange(0, LINES)
    tokens = tl.program_id(1) * TOKENS + tl.arange(0, TOKENS)
    products, _ = many_tokens(
        x, A, tokens, lines, n_tokens, n_lines, d_in, TOKENS, LINES, STEP, HALF
    )
    to = tokens.to(tl.int64)[:, None] * n_lines + lines[None, :]
    inside = (tokens < n_tokens)[:, None] & (lines < n_lines)[None, :]
    tl.store(every + to, products, mask=inside)


@triton.jit
def projection(x, A, row, d_in, rank, RANK: tl.constexpr, STEP: tl.constexpr):
    """Returns A* x of one row for one token, whose inputs start at x; (RANK,)."""
    ranks = tl.arange(0, RANK)
    is_rank = (ranks < rank) & (row >= 0)
    lines = A + (row.to(tl.int64) * rank + ranks)[:, None] * d_in
    products = tl.zeros((RANK, STEP), tl.float32)
    for start in tl.range(0, d_in, STEP, loop_unroll_factor=UNROLLED):
        at = start + tl.arange(0, STEP)
        values = tl.load(x + at, mask=at < d_in, other=0.0).to(tl.float32)
        inside = is_rank[:, None] & (at < d_in)[None, :]
        block = tl.load(lines + at[None, :], mask=inside, other=0.0).to(tl.float32)
        products += block * values[None, :]
    return tl.sum(products, axis=1)


@triton.jit
def project(
    x,
    A,
    every,
    singular,
    owners,
    routers,
    found_scores,
    found_rows,
    tolerances,
    rows,
    scores,
    reach,
    z,
    n,
    d_in,
    rank,
    n_found,
    FOUND: tl.constexpr,
    RANK: tl.constexpr,
    STEP: tl.constexpr,
):
    """Merges what the parts kept, and projects and scores one candidate; grid (T, candidates).

    Each program merges for itself, which takes the place of one more launch.

    Args:
        x: (T, D_in).
        A: (N, R, D_in).
        every: A* x of all adapters, if that is there; (T, N, R) float32.
        singular: (N, R) float32.
        owners: the router of each token, -1 for none, (T,) int32; None where all have the first.
        routers: see `table.py`; (routers, FIELDS) float32.
        found_scores: see `retrieve`; (T, n_found) float32.
        found_rows: (T, n_found) int32.
        tolerances: (T,) float32.
        rows: takes the candidates, ascending; (T, candidates) int32; NO_ROW where there are fewer.
        scores: takes what decides among them, or mixes them; (T, candidates) float32.
        reach: takes the scores up to which each counts as equal; (T, candidates) float32.
        z: takes A* x; (T, candidates, R) float32.
        n: N.
        d_in: D_in.
        rank: R.
        n_found: parts times what each kept.
        FOUND: no less than n_found.
        RANK: no less than R.
        STEP: columns read at a time.
    """
    token, number = tl.program_id(0).to(tl.int64), tl.program_id(1)
    to = token * tl.num_programs(1) + number
    owner = owner_of(owners, token, token >= 0)
    router = routers + tl.maximum(owner, 0) * FIELDS
    places = tl.arange(0, FOUND)[None, :]
    is_found = (places < n_found) & (owner >= 0)
    kept = tl.load(found_scores + token * n_found + places, mask=is_found, other=REFUSED)
    kept_rows = tl.load(found_rows + token * n_found + places, mask=is_found, other=NO_ROW)
    tolerance = tl.load(tolerances + token)
    row, arrow_score = candidate(
        kept, kept_rows, router, tl.zeros((1,), tl.float32) + tolerance, number
    )
    ranks = tl.arange(0, RANK)
    is_rank = (ranks < rank) & (row >= 0)
    if every is None:
        found = projection(x + token * d_in, A, row, d_in, rank, RANK, STEP)
    else:
        here = every + (token * n + row) * rank
        found = tl.load(here + ranks, mask=is_rank, other=0.0)
    sizes = tl.load(singular + row.to(tl.int64) * rank + ranks, mask=is_rank, other=0.0)
    by = tl.load(router + SCORE)
    is_mixed = tl.load(router + KIND) == ARROW_KIND
    score = tl.where(is_mixed, arrow_score, rerank_score(found, sizes, by))
    score = tl.where(row >= 0, tl.where(score >= 0, score, REFUSED), REFUSED)
    largest = tl.max(sizes, axis=0)  # they descend
    near = tl.where(by == BY_NORM, tolerance * largest, tolerance)
    tl.store(rows + to, row)
    tl.store(scores + to, score)
    tl.store(reach + to, score + near)
    tl.store(z + to * rank + ranks, found, mask=ranks < rank)
