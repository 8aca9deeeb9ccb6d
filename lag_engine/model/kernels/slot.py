"""Routers and candidates as the compiled operator reads them, and its one call."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, NamedTuple

import torch

from lag_engine.model.kernels.build import build
from lag_engine.model.kernels.structs import (
    ELEMENTS,
    KINDS,
    SCORE_NUMBERS,
    CallStruct,
    RouterStruct,
)
from lag_engine.routing.choice import Update
from lag_engine.routing.routers import LAG, Arrow

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from lag_engine.model.kernels.stacks import CompiledStack
    from lag_engine.routing.choice import Router

MOST_CANDIDATES = 256
"""A router that projects more adapters for each token is better served by matrix products."""


class CompiledSlot:
    """A router over one stack, ready to be called.

    Args:
        router: what `is_compiled` accepts.
        stack: the module's adapters.
        allowed: rows that may be chosen; (N,) bool; None allows all.
    """

    def __init__(self, router: Router, stack: CompiledStack, allowed: Tensor | None) -> None:
        self.stack = stack
        self.width = width_of(router, stack.n)
        self.struct = _struct(router, stack.n, allowed)
        self.is_approximate = bool(getattr(router, "approximate", False))
        self._allowed = allowed  # its memory is pointed to
        self._joined = join(self, ())

    def update(
        self, x: Tensor, *, others: Sequence[CompiledSlot] = (), owners: Tensor | None = None
    ) -> Update | None:
        """Returns the update of every token, or None for inputs it cannot take; see `Fused`."""
        if not takes(x):
            return None
        routers, n_tokens = self._with(others), x.shape[0]
        rows = torch.empty((n_tokens, routers.width), dtype=torch.long)
        scores, weights = (torch.empty((n_tokens, routers.width)) for _ in range(2))
        total = torch.empty((n_tokens, self.stack.d_out))
        run(self.stack, routers, owners, x, total, choice=(rows, scores, weights))
        return Update(total, rows, scores, weights)

    def added(
        self,
        out: Tensor,
        x: Tensor,
        *,
        others: Sequence[CompiledSlot] = (),
        owners: Tensor | None = None,
    ) -> Tensor | None:
        """Returns `out` plus the update of every token; see `Fused`."""
        if not takes(x) or out.dtype not in ELEMENTS or out.requires_grad:
            return None
        base = out.contiguous()
        total = torch.empty_like(base)
        run(self.stack, self._with(others), owners, x, total, base=base)
        return total

    def _with(self, others: Sequence[CompiledSlot]) -> Joined:
        """Returns its router and those of others; made once for the same ones."""
        if self._joined.others != tuple(others):
            self._joined = join(self, others)
        return self._joined


class Joined(NamedTuple):
    """The routers of one slot and others, as the operator reads them.

    Attributes:
        others: the other slots.
        address: of the array of their routers.
        width: the most adapters that a token can have.
        is_approximate: all of them permit it.
    """

    others: tuple[CompiledSlot, ...]
    address: ctypes._Pointer[RouterStruct]
    width: int
    is_approximate: bool


def join(first: CompiledSlot, others: Sequence[CompiledSlot]) -> Joined:
    """Returns the routers of slots over one stack."""
    slots = (first, *others)
    routers = (RouterStruct * len(slots))(*(slot.struct for slot in slots))
    return Joined(
        tuple(others),
        ctypes.cast(routers, ctypes.POINTER(RouterStruct)),
        max(slot.width for slot in slots),
        all(slot.is_approximate for slot in slots),
    )


def takes(x: Tensor) -> bool:
    """Whether the operator can read these inputs; it computes no gradients."""
    return x.dtype in ELEMENTS and x.device.type == "cpu" and not x.requires_grad and x.shape[0] > 0


def is_compiled(router: Router, n: int) -> bool:
    """Whether the operator knows the router, over n adapters."""
    if isinstance(router, LAG):
        limit = router.k_max if router.retrieve_k == "adaptive" else router.retrieve_k
        return min(limit, n) <= MOST_CANDIDATES
    return isinstance(router, Arrow) and min(router.top_k, n) <= MOST_CANDIDATES


def width_of(router: Router, n: int) -> int:
    """Returns how many adapters a token of the router can have."""
    return min(router.top_k, n) if isinstance(router, Arrow) else 1


def run(
    stack: CompiledStack,
    routers: Joined,
    router_of: Tensor | None,
    x: Tensor,
    total: Tensor,
    *,
    base: Tensor | None = None,
    choice: tuple[Tensor, Tensor, Tensor] | None = None,
) -> None:
    """Runs the operator; all tensors but x are contiguous.

    Args:
        stack: the module's adapters.
        routers: what chooses among them.
        router_of: the router of each token, -1 for none, (T,) int32; None where all have the first.
        x: inputs; (T, D_in).
        total: takes the updates, or base plus them; (..., D_out), T tokens.
        base: what they are added to; as total.
        choice: take the rows, int64, the scores and the weights; (T, width) each.
    """
    loaded = build().loaded
    assert loaded is not None
    x = x.contiguous()
    n_tokens = x.shape[0]
    stack.prepare(n_tokens, is_approximate=routers.is_approximate)
    rows, scores, weights = choice or (None, None, None)
    struct = CallStruct(
        x.data_ptr(),
        ELEMENTS[x.dtype],
        torch.get_num_threads(),
        n_tokens,
        routers.width,
        _address(router_of),
        _address(rows),
        _address(scores),
        _address(weights),
        _address(base),
        total.data_ptr(),
        ELEMENTS[total.dtype],
        routers.is_approximate,
    )
    if loaded.lag_route(stack.address, routers.address, ctypes.byref(struct)):
        raise MemoryError(f"no memory to route {n_tokens} tokens over {stack.n} adapters")
    stack.trim()


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _struct(router: Router, n: int, allowed: Tensor | None) -> RouterStruct:
    struct = RouterStruct(
        kind=KINDS[router.name],
        floor=-torch.inf,
        temperature=1.0,
        n_allowed=n if allowed is None else int(allowed.sum()),
        allowed=None if allowed is None else allowed.data_ptr(),
    )
    if isinstance(router, Arrow):
        struct.k, struct.temperature = min(router.top_k, n), router.temperature
    if isinstance(router, LAG):
        struct.score = SCORE_NUMBERS[router.score]
        if router.retrieve_k == "adaptive":
            struct.k, struct.k_min, struct.keep = min(router.k_max, n), router.k_min, router.keep
        else:
            struct.k = min(router.retrieve_k, n)
        if router.floor is not None:
            struct.floor = router.floor
    return struct
