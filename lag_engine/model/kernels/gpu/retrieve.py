"""The first stage: arrow scores, and of each part of the library its best rows.

One program scores a part of the rows for a block of tokens and keeps its k largest, so that no
(tokens, adapters) scores reach memory once a part is larger than k. What is in no part's k largest
is not in the library's; the second stage merges the parts.
"""

from __future__ import annotations

import triton
import triton.language as tl

from lag_engine.model.kernels.gpu.largest import REFUSED, among_largest
from lag_engine.model.kernels.gpu.table import FIELDS, K
from lag_engine.routing.scores import ROUNDING_UNITS

EPSILON = tl.constexpr(ROUNDING_UNITS * 2.0**-23)
"""The tolerance of `rounding_tolerance`, for an input of length 1."""

UNROLLED = tl.constexpr(4)
"""Steps whose reads are asked for before the first is waited for."""


@triton.jit
def owner_of(owners, tokens, is_token):
    """Returns the router of these tokens, -1 for none; `owners` as in `launch.Call`."""
    if owners is None:
        return tl.where(is_token, 0, -1)
    else:  # noqa: RET505 - Triton compiles one branch of the two
        return tl.load(owners + tokens, mask=is_token, other=-1)


@triton.jit
def one_token(x, arrow, rows, n, d_in, ROWS: tl.constexpr, STEP: tl.constexpr):
    """Returns one token's dot products with these rows, (1, ROWS), and its length, (1,).

    A matrix unit needs 16 tokens; for one, every number is read once and memory is the limit.
    """
    columns = tl.arange(0, STEP)
    lines = arrow + rows.to(tl.int64)[:, None] * d_in
    products = tl.zeros((ROWS, STEP), tl.float32)
    squares = tl.zeros((STEP,), tl.float32)
    for start in tl.range(0, d_in, STEP, loop_unroll_factor=UNROLLED):
        at = start + columns
        values = tl.load(x + at, mask=at < d_in, other=0.0).to(tl.float32)
        inside = (rows < n)[:, None] & (at < d_in)[None, :]
        part = tl.load(lines + at[None, :], mask=inside, other=0.0).to(tl.float32)
        products += part * values[None, :]
        squares += values * values
    return tl.sum(products, axis=1)[None, :], tl.sqrt(tl.sum(squares[None, :], axis=1))


@triton.jit
def many_tokens(
    x,
    arrow,
    tokens,
    rows,
    n_tokens,
    n,
    d_in,
    TOKENS: tl.constexpr,
    ROWS: tl.constexpr,
    STEP: tl.constexpr,
    HALF: tl.constexpr,
):
    """Returns the tokens' dot products with these rows, (TOKENS, ROWS), and lengths, (TOKENS,).

    With HALF they meet in their own half-precision dtype, which loses nothing, as products are
    summed in float32; otherwise in float32 proper, never in TF32.
    """
    columns = tl.arange(0, STEP)
    inputs = x + tokens.to(tl.int64)[:, None] * d_in
    lines = arrow + rows.to(tl.int64)[None, :] * d_in
    products = tl.zeros((TOKENS, ROWS), tl.float32)
    squares = tl.zeros((TOKENS,), tl.float32)
    for start in range(0, d_in, STEP):
        at = start + columns
        inside = at < d_in
        values = tl.load(
            inputs + at[None, :], mask=(tokens < n_tokens)[:, None] & inside[None, :], other=0.0
        )
        part = tl.load(lines + at[:, None], mask=(rows < n)[None, :] & inside[:, None], other=0.0)
        wide = values.to(tl.float32)
        squares += tl.sum(wide * wide, axis=1)
        if HALF:
            products = tl.dot(values, part, products, input_precision="ieee")
        else:
            products = tl.dot(wide, part.to(tl.float32), products, input_precision="ieee")
    return products, tl.sqrt(squares)


@triton.jit
def retrieve(
    x,
    arrow,
    owners,
    routers,
    allowed,
    found_scores,
    found_rows,
    tolerances,
    n_tokens,
    n,
    d_in,
    n_kept,
    TOKENS: tl.constexpr,
    ROWS: tl.constexpr,
    STEP: tl.constexpr,
    HALF: tl.constexpr,
):
    """Keeps the best rows of one part; grid (parts, blocks of tokens).

    Args:
        x: (T, D_in).
        arrow: (N, D_in).
        owners: the router of each token, -1 for none, (T,) int32; None where all have the first.
        routers: see `table.py`; (routers, FIELDS) float32.
        allowed: which rows each router may choose; (routers, N) uint8.
        found_scores: takes arrow scores; (T, parts, n_kept) float32; REFUSED where there are fewer.
        found_rows: takes their rows, ascending; (T, parts, n_kept) int32.
        tolerances: takes what two equal arrow scores may differ by; (T,) float32.
        n_tokens: T.
        n: N.
        d_in: D_in.
        n_kept: rows kept of a part: its size, or the largest k of all routers.
        TOKENS: of a block: 1, or at least 16.
        ROWS: of a part.
        STEP: columns read at a time.
        HALF: whether x and arrow are of one half-precision dtype that matrix units multiply.
    """
    part = tl.program_id(0)
    tokens = tl.program_id(1) * TOKENS + tl.arange(0, TOKENS)
    rows = part * ROWS + tl.arange(0, ROWS)
    if TOKENS == 1:
        line = x + tl.program_id(1).to(tl.int64) * d_in
        products, length = one_token(line, arrow, rows, n, d_in, ROWS, STEP)
    else:
        products, length = many_tokens(
            x, arrow, tokens, rows, n_tokens, n, d_in, TOKENS, ROWS, STEP, HALF
        )
    tolerance = length * EPSILON
    owner = owner_of(owners, tokens, tokens < n_tokens)
    k = tl.load(routers + owner * FIELDS + K, mask=owner >= 0, other=0.0).to(tl.int32)
    is_open = tl.load(
        allowed + owner.to(tl.int64)[:, None] * n + rows[None, :],
        mask=(owner >= 0)[:, None] & (rows < n)[None, :],
        other=0,
    )
    scores = tl.abs(products)
    scores = tl.where((is_open != 0) & (scores >= 0), scores, REFUSED)  # not a number: refused
    is_kept = among_largest(scores, k, tolerance).to(tl.int32)
    # Those kept come first, in order; the rest fills the places after them.
    after = tl.sum(is_kept, axis=1)[:, None] + tl.cumsum(1 - is_kept, axis=1)
    place = tl.where(is_kept != 0, tl.cumsum(is_kept, axis=1), after) - 1
    lines = tokens.to(tl.int64) * tl.num_programs(0) + part
    to = lines[:, None] * n_kept + place
    inside = (tokens < n_tokens)[:, None] & (place < n_kept)
    tl.store(found_scores + to, tl.where(is_kept != 0, scores, REFUSED), mask=inside)
    tl.store(found_rows + to, rows[None, :] + tl.zeros_like(place), mask=inside)
    tl.store(tolerances + tokens, tolerance, mask=(tokens < n_tokens) & (part == 0))
