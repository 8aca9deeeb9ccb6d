"""The second stage, second half: the choice among the candidates, and its update."""

from __future__ import annotations

import triton
import triton.language as tl

from lag_engine.model.kernels.gpu.largest import REFUSED
from lag_engine.model.kernels.gpu.project import NO_ROW
from lag_engine.model.kernels.gpu.retrieve import owner_of
from lag_engine.model.kernels.gpu.table import ARROW_KIND, FIELDS, FLOOR, KIND, TEMPERATURE

_PAST_ALL = tl.constexpr(0x7FFFFFFF)


@triton.jit
def best_of(rows, scores, reach):
    """Returns the place, row and score of the best candidate; a row of _PAST_ALL for none."""
    is_there = rows >= 0
    largest = tl.max(tl.where(is_there, scores, REFUSED), axis=0)
    row = tl.min(tl.where(is_there & (reach >= largest), rows, _PAST_ALL), axis=0)
    is_best = is_there & (rows == row)
    place = tl.max(tl.where(is_best, tl.arange(0, rows.shape[0]), 0), axis=0)
    return place, row, tl.max(tl.where(is_best, scores, 0.0), axis=0)


@triton.jit
def one_update(z, B, row, columns, rank, d_out, RANK: tl.constexpr):
    """Returns these columns of B*^T z of one row; z is an address."""
    ranks = tl.arange(0, RANK)
    is_rank = ranks < rank
    inputs = tl.load(z + ranks, mask=is_rank, other=0.0)
    lines = B + (row * rank + ranks)[:, None] * d_out
    inside = is_rank[:, None] & (columns < d_out)[None, :]
    part = tl.load(lines + columns[None, :], mask=inside, other=0.0).to(tl.float32)
    return tl.sum(part * inputs[:, None], axis=0)


@triton.jit
def apply(
    rows,
    scores,
    reach,
    z,
    B,
    owners,
    routers,
    base,
    total,
    applied_rows,
    applied_scores,
    applied_weights,
    n_candidates,
    rank,
    d_out,
    width,
    CANDIDATES: tl.constexpr,
    RANK: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Chooses among a token's candidates and applies the choice; grid (T, blocks of columns).

    Args:
        rows: see `project`; (T, candidates) int32.
        scores: (T, candidates) float32.
        reach: (T, candidates) float32.
        z: (T, candidates, R) float32.
        B: (N, R, D_out).
        owners: the router of each token, -1 for none, (T,) int32; None where all have the first.
        routers: see `table.py`; (routers, FIELDS) float32.
        base: what the updates are added to; (T, D_out); None for zero.
        total: takes the sums; (T, D_out).
        applied_rows: takes the choice; (T, width) int64; None, like the next two, for nowhere.
        applied_scores: (T, width) float32.
        applied_weights: (T, width) float32.
        n_candidates: of a token, at most.
        rank: R.
        d_out: D_out.
        width: the most adapters that a token can have.
        CANDIDATES: no less than n_candidates, nor than width.
        RANK: no less than R.
        COLUMNS: of a block.
    """
    token, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    router = routers + tl.maximum(owner_of(owners, token, token >= 0), 0) * FIELDS
    is_mixed = tl.load(router + KIND) == ARROW_KIND
    temperature = tl.load(router + TEMPERATURE)
    places = tl.arange(0, CANDIDATES)
    first = token * n_candidates
    is_place = places < n_candidates
    known = tl.load(rows + first + places, mask=is_place, other=NO_ROW)
    own = tl.load(scores + first + places, mask=is_place, other=REFUSED)
    upto = tl.load(reach + first + places, mask=is_place, other=REFUSED)
    best, best_row, best_score = best_of(known, own, upto)
    n_best = tl.where(best_score >= tl.load(router + FLOOR), 1, 0)
    n_best = tl.where(best_row < _PAST_ALL, n_best, 0)
    largest = tl.max(own, axis=0)
    parts = tl.where(known >= 0, tl.exp((own - largest) / temperature), 0.0)
    n_mixed = tl.sum((known >= 0).to(tl.int32), axis=0)
    whole = tl.where(n_mixed > 0, tl.sum(parts, axis=0), 1.0)
    if applied_rows is not None and block == 0:
        chosen_to = token * width + places
        is_best = places < n_best
        chosen = tl.where(is_mixed, known, tl.where(is_best, best_row, NO_ROW))
        score = tl.where(is_mixed, tl.maximum(own, 0.0), tl.where(places == 0, best_score, 0.0))
        weight = tl.where(is_mixed, parts / whole, is_best.to(tl.float32))
        tl.store(applied_rows + chosen_to, chosen.to(tl.int64), mask=places < width)
        tl.store(applied_scores + chosen_to, score, mask=places < width)
        tl.store(applied_weights + chosen_to, weight, mask=places < width)
    start = tl.where(is_mixed, 0, best)
    end = tl.where(is_mixed, n_mixed, best + n_best)
    columns = block * COLUMNS + tl.arange(0, COLUMNS)
    to = token * d_out + columns
    summed = tl.zeros((COLUMNS,), tl.float32)
    for place in range(start, end):
        share = tl.exp((tl.load(scores + first + place) - largest) / temperature) / whole
        row = tl.load(rows + first + place).to(tl.int64)
        added = one_update(z + (first + place) * rank, B, row, columns, rank, d_out, RANK)
        summed += added * tl.where(is_mixed, share, 1.0)
    if base is not None:
        summed += tl.load(base + to, mask=columns < d_out, other=0.0).to(tl.float32)
    tl.store(total + to, summed, mask=columns < d_out)
