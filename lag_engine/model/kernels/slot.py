"""Routers and candidates as the compiled operator reads them, and its one call."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

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
        self._address = ctypes.pointer(self.struct)

    def update(self, x: Tensor) -> Update | None:
        """Returns the update of every token, or None for inputs it cannot take; x is (T, D_in)."""
        if not takes(x):
            return None
        return call(
            self.stack, self._address, None, x, self.width, is_approximate=self.is_approximate
        )

    def added(self, out: Tensor, x: Tensor) -> Tensor | None:
        """Returns `out` plus the update of every token; see `Fused`."""
        if not takes(x) or out.dtype not in ELEMENTS or out.requires_grad:
            return None
        base = out.contiguous()
        total = torch.empty_like(base)
        run(
            self.stack,
            self._address,
            None,
            x,
            self.width,
            total,
            base=base,
            is_approximate=self.is_approximate,
        )
        return total

    def together(self, others: Sequence[CompiledSlot], owners: Tensor, x: Tensor) -> Update | None:
        """Returns the update of tokens that go their own ways over one stack; see `Fused`."""
        if not takes(x):
            return None
        slots = [self, *others]
        routers = (RouterStruct * len(slots))(*(slot.struct for slot in slots))
        address = ctypes.cast(routers, ctypes.POINTER(RouterStruct))
        width = max(slot.width for slot in slots)
        permitted = all(slot.is_approximate for slot in slots)
        return call(self.stack, address, owners, x, width, is_approximate=permitted)


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


def call(
    stack: CompiledStack,
    routers: ctypes._Pointer[RouterStruct],
    router_of: Tensor | None,
    x: Tensor,
    width: int,
    *,
    is_approximate: bool,
) -> Update:
    """Runs the operator.

    Args:
        stack: the module's adapters.
        routers: one, or an array of them.
        router_of: the router of each token, -1 for none, (T,) int32; None where all have the first.
        x: inputs; (T, D_in).
        width: the most adapters that a token can have.
        is_approximate: whether every router permits that an adapter may be missed.
    """
    n_tokens = x.shape[0]
    rows = torch.empty((n_tokens, width), dtype=torch.long)
    scores, weights = torch.empty((n_tokens, width)), torch.empty((n_tokens, width))
    total = torch.empty((n_tokens, stack.d_out))
    choice = (rows, scores, weights)
    run(stack, routers, router_of, x, width, total, choice=choice, is_approximate=is_approximate)
    return Update(total, rows, scores, weights)


def run(
    stack: CompiledStack,
    routers: ctypes._Pointer[RouterStruct],
    router_of: Tensor | None,
    x: Tensor,
    width: int,
    total: Tensor,
    *,
    base: Tensor | None = None,
    choice: tuple[Tensor, Tensor, Tensor] | None = None,
    is_approximate: bool,
) -> None:
    """Fills `total` (T, D_out) with the updates, or with base plus them, and `choice` if asked.

    The other arguments are those of `call`; all tensors but x are contiguous.
    """
    loaded = build().loaded
    assert loaded is not None
    x = x.contiguous()
    n_tokens = x.shape[0]
    stack.prepare(n_tokens, is_approximate=is_approximate)
    rows, scores, weights = choice or (None, None, None)
    struct = CallStruct(
        x.data_ptr(),
        ELEMENTS[x.dtype],
        torch.get_num_threads(),
        n_tokens,
        width,
        _address(router_of),
        _address(rows),
        _address(scores),
        _address(weights),
        _address(base),
        total.data_ptr(),
        ELEMENTS[total.dtype],
        is_approximate,
    )
    if loaded.lag_route(stack.address, routers, ctypes.byref(struct)):
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
