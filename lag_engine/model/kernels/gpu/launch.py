"""The launches of a routed update: three, or four where all adapters are projected at once.

Sizes follow from shapes alone, so a CUDA graph can hold them; nothing here reads from the device.
The sizes are calculated, for a Hopper processor, and not measured.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from lag_engine.model.kernels.gpu.retrieve import retrieve
from lag_engine.model.kernels.gpu.status import is_interpreted
from lag_engine.model.kernels.gpu.update import apply, project, project_all
from lag_engine.routing.choice import Update

if TYPE_CHECKING:
    from torch import Tensor

    from lag_engine.model.kernels.gpu.stack import DeviceStack

PARTS = 128
"""Programs that share the rows, where there are enough of them: about one for each core."""

FEWEST_ROWS, MOST_ROWS = 8, 256
"""Of a program that scores one token: memory is its limit."""

FEWEST_TILE_ROWS, MOST_TILE_ROWS = 16, 128
"""Of a program that scores several tokens by matrix units, which take no fewer than 16."""

FEWEST_TOKENS, MOST_TOKENS = 16, 32
"""Of such a program."""

STEP = 64
"""Columns that such a program reads at a time."""

ALL_TOKENS, ALL_LINES = 64, 128
"""Of a program that projects all adapters: a plain matrix product."""

TIMES_WITH_UNITS, TIMES_WITHOUT = 64, 4
"""Projecting all adapters is worth so many times as many products as tokens ask for.

A matrix unit multiplies about a hundred numbers in the time in which one comes out of the cache.
"""

MOST_PROJECTED = 1 << 26
"""Numbers that all projections together may take: 256 MiB."""

TILE = 4096
"""Elements of a factor read at a time: 32 numbers in flight for each of 128 threads."""

COLUMNS = 256
"""Of the update, written by one program."""

MOST_FOUND = 1 << 13
"""What the first stage leaves for one token is merged in the registers of one program."""


class Call(NamedTuple):
    """What is routed over which stack, by whom.

    Attributes:
        x: inputs; (T, D_in), contiguous.
        stack: the module's adapters.
        owners: the router of each token, -1 for none, (T,) int32; None where all have the first.
        routers: see `table.py`; (routers, FIELDS).
        allowed: which rows each router may choose; (routers, N) uint8.
        n_candidates: the most adapters that a token projects.
        width: the most adapters that a token can have.
    """

    x: Tensor
    stack: DeviceStack
    owners: Tensor | None
    routers: Tensor
    allowed: Tensor
    n_candidates: int
    width: int

    def empty(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Returns room of this shape for every token; (T, *shape)."""
        return torch.empty((len(self.x), *shape), dtype=dtype, device=self.x.device)


class Found(NamedTuple):
    """What the first stage leaves to the second; see `retrieve`."""

    scores: Tensor
    rows: Tensor
    tolerances: Tensor


class Candidates(NamedTuple):
    """What there is to choose from; see `project`."""

    rows: Tensor
    scores: Tensor
    reach: Tensor
    z: Tensor


def update(call: Call) -> Update:
    """Launches the kernels; the update is there once the device has run them."""
    found = Update(
        total=call.empty(call.stack.d_out),
        rows=call.empty(call.width, dtype=torch.long),
        scores=call.empty(call.width),
        weights=call.empty(call.width),
    )
    _route(call, None, *found)
    return found


def added(call: Call, base: Tensor) -> Tensor:
    """Returns `base`, contiguous, plus the update, in its dtype; the choice is kept nowhere."""
    total = torch.empty_like(base)
    _route(call, base, total, None, None, None)
    return total


def is_mergeable(n: int, n_candidates: int) -> bool:
    """Whether one program can merge what the first stage leaves of n rows, for any tokens."""
    return all(_n_found(n, n_candidates, n_tokens) <= MOST_FOUND for n_tokens in (1, 2))


def _route(call: Call, *results: Tensor | None) -> None:
    with torch.cuda.device_of(call.x):
        _apply(call, _project(call, _retrieve(call)), *results)


def _n_found(n: int, n_candidates: int, n_tokens: int) -> int:
    """Returns how many of n rows the first stage leaves for each token."""
    rows = _part_rows(n, n_tokens)
    return _parts(n, rows) * min(rows, n_candidates)


def _retrieve(call: Call) -> Found:
    n_tokens, stack = len(call.x), call.stack
    n_left = _n_found(stack.n, call.n_candidates, n_tokens)
    found = Found(call.empty(n_left), call.empty(n_left, dtype=torch.int32), call.empty())
    rows, tokens = _part_rows(stack.n, n_tokens), _block_tokens(n_tokens)
    retrieve[(_parts(stack.n, rows), _parts(n_tokens, tokens))](
        call.x,
        stack.arrow,
        call.owners,
        call.routers,
        call.allowed,
        *found,
        n_tokens,
        stack.n,
        stack.d_in,
        min(rows, call.n_candidates),
        TOKENS=tokens,
        ROWS=rows,
        STEP=STEP if tokens > 1 else _step(rows, stack.d_in),
        HALF=_is_half(call),
        num_warps=8 if tokens > 1 else 4,
    )
    return found


def _project(call: Call, found: Found) -> Candidates:
    n_tokens, stack, n = len(call.x), call.stack, call.n_candidates
    candidates = Candidates(
        call.empty(n, dtype=torch.int32), call.empty(n), call.empty(n), call.empty(n, stack.rank)
    )
    ranks, n_left = _power(stack.rank), found.rows.shape[1]
    project[(n_tokens, n)](
        call.x,
        stack.A,
        _project_all(call) if _is_worth_all(call) else None,
        stack.singular,
        call.owners,
        call.routers,
        *found,
        *candidates,
        stack.n,
        stack.d_in,
        stack.rank,
        n_left,
        FOUND=_power(n_left),
        RANK=ranks,
        STEP=_step(ranks, stack.d_in),
        num_warps=8 if n_left > MOST_FOUND // 2 else 4,
    )
    return candidates


def _project_all(call: Call) -> Tensor:
    """Returns A* x of all adapters; (T, N, R)."""
    n_tokens, stack = len(call.x), call.stack
    every, n_lines = call.empty(stack.n, stack.rank), stack.n * stack.rank
    project_all[(_parts(n_lines, ALL_LINES), _parts(n_tokens, ALL_TOKENS))](
        call.x,
        stack.A,
        every,
        n_tokens,
        n_lines,
        stack.d_in,
        TOKENS=ALL_TOKENS,
        LINES=ALL_LINES,
        STEP=STEP,
        HALF=_is_half(call),
        num_warps=8,
    )
    return every


def _is_worth_all(call: Call) -> bool:
    """Whether one read of all adapters is soon over, against one of each token's candidates."""
    times = TIMES_WITH_UNITS if _is_half(call) else TIMES_WITHOUT
    n_tokens, n = len(call.x), call.stack.n
    if n_tokens == 1 or n_tokens * n * call.stack.rank > MOST_PROJECTED:
        return False
    return n <= call.n_candidates * min(n_tokens, times)


def _apply(call: Call, candidates: Candidates, *results: Tensor | None) -> None:
    """Fills the results, which are the last arguments of `apply`, from `base` on."""
    n_tokens, stack = len(call.x), call.stack
    apply[(n_tokens, _parts(stack.d_out, COLUMNS))](
        *candidates,
        stack.B,
        call.owners,
        call.routers,
        *results,
        call.n_candidates,
        stack.rank,
        stack.d_out,
        call.width,
        CANDIDATES=_power(call.n_candidates),
        RANK=_power(stack.rank),
        COLUMNS=COLUMNS,
    )


def _is_half(call: Call) -> bool:
    """Whether matrix units multiply the inputs as they are; the interpreter takes no bfloat16."""
    return call.x.dtype == call.stack.arrow.dtype != torch.float32 and not is_interpreted()


def _block_tokens(n_tokens: int) -> int:
    """Returns how many tokens one program scores; a power of two."""
    return 1 if n_tokens == 1 else min(max(_power(n_tokens), FEWEST_TOKENS), MOST_TOKENS)


def _part_rows(n: int, n_tokens: int) -> int:
    """Returns how many of n rows one program scores; a power of two."""
    n_blocks = _parts(n_tokens, _block_tokens(n_tokens))
    wanted = _power(n * n_blocks // PARTS + 1) // 2
    if n_tokens == 1:
        return min(max(wanted, FEWEST_ROWS), MOST_ROWS)
    return min(max(wanted, FEWEST_TILE_ROWS), MOST_TILE_ROWS)


def _step(lines: int, width: int) -> int:
    """Returns how many columns of so many lines are read at a time; a power of two."""
    return min(max(TILE // lines, 16), max(_power(width), 16))


def _parts(whole: int, part: int) -> int:
    return -(-whole // part)


def _power(least: int) -> int:
    """Returns the smallest power of two that is no less; at least 1."""
    return 1 << max(least - 1, 0).bit_length()
