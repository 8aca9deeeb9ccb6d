"""The launches of a routed update: three, or four where all adapters are projected at once.

Nothing here reads from the device or waits for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from lag_engine.model.kernels.gpu import sizes
from lag_engine.model.kernels.gpu.apply import apply
from lag_engine.model.kernels.gpu.project import project, project_all
from lag_engine.model.kernels.gpu.retrieve import retrieve
from lag_engine.model.kernels.gpu.status import is_interpreted
from lag_engine.routing.choice import Update

if TYPE_CHECKING:
    from torch import Tensor

    from lag_engine.model.kernels.gpu.stack import DeviceStack


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


def _route(call: Call, *results: Tensor | None) -> None:
    with torch.cuda.device_of(call.x):
        _apply(call, _project(call, _retrieve(call)), *results)


def _retrieve(call: Call) -> Found:
    n_tokens, stack = len(call.x), call.stack
    n_left = sizes.n_found(stack.n, call.n_candidates, n_tokens)
    found = Found(call.empty(n_left), call.empty(n_left, dtype=torch.int32), call.empty())
    rows, tokens = sizes.part_rows(stack.n, n_tokens), sizes.block_tokens(n_tokens)
    retrieve[(sizes.n_parts(stack.n, rows), sizes.n_parts(n_tokens, tokens))](
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
        STEP=sizes.STEP if tokens > 1 else sizes.step_of(rows, stack.d_in),
        HALF=_is_half(call),
        num_warps=8 if tokens > 1 else 4,
    )
    return found


def _project(call: Call, found: Found) -> Candidates:
    n_tokens, stack, n = len(call.x), call.stack, call.n_candidates
    candidates = Candidates(
        call.empty(n, dtype=torch.int32), call.empty(n), call.empty(n), call.empty(n, stack.rank)
    )
    ranks, n_left = sizes.power(stack.rank), found.rows.shape[1]
    is_dense = sizes.is_worth_all(n_tokens, stack.n, n, stack.rank, is_half=_is_half(call))
    project[(n_tokens, n)](
        call.x,
        stack.A,
        _project_all(call) if is_dense else None,
        stack.singular,
        call.owners,
        call.routers,
        *found,
        *candidates,
        stack.n,
        stack.d_in,
        stack.rank,
        n_left,
        FOUND=sizes.power(n_left),
        RANK=ranks,
        STEP=sizes.step_of(ranks, stack.d_in),
        num_warps=8 if n_left > sizes.MOST_FOUND // 2 else 4,
    )
    return candidates


def _project_all(call: Call) -> Tensor:
    """Returns A* x of all adapters; (T, N, R)."""
    n_tokens, stack = len(call.x), call.stack
    every, n_lines = call.empty(stack.n, stack.rank), stack.n * stack.rank
    n_blocks = sizes.n_parts(n_tokens, sizes.ALL_TOKENS)
    project_all[(sizes.n_parts(n_lines, sizes.ALL_LINES), n_blocks)](
        call.x,
        stack.A,
        every,
        n_tokens,
        n_lines,
        stack.d_in,
        TOKENS=sizes.ALL_TOKENS,
        LINES=sizes.ALL_LINES,
        STEP=sizes.STEP,
        HALF=_is_half(call),
        num_warps=8,
    )
    return every


def _apply(call: Call, candidates: Candidates, *results: Tensor | None) -> None:
    """Fills the results, which are the last arguments of `apply`, from `base` on."""
    n_tokens, stack = len(call.x), call.stack
    apply[(n_tokens, sizes.n_parts(stack.d_out, sizes.COLUMNS))](
        *candidates,
        stack.B,
        call.owners,
        call.routers,
        *results,
        call.n_candidates,
        stack.rank,
        stack.d_out,
        call.width,
        CANDIDATES=sizes.power(call.n_candidates),
        RANK=sizes.power(stack.rank),
        COLUMNS=sizes.COLUMNS,
    )


def _is_half(call: Call) -> bool:
    """Whether matrix units multiply the inputs as they are; the interpreter takes no bfloat16."""
    return call.x.dtype == call.stack.arrow.dtype != torch.float32 and not is_interpreted()
