"""Routers and candidates as the compiled operator reads them, and its one call."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

import torch

from lag_engine.model.kernels.structs import (
    ELEMENTS,
    KINDS,
    SCORE_NUMBERS,
    SUMMED,
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
    """A router over one stack, ready to be called; by one thread at a time.

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
        self._joined = Joined(self, ())

    def update(
        self, x: Tensor, *, others: Sequence[CompiledSlot] = (), owners: Tensor | None = None
    ) -> Update | None:
        """Returns the update of every token, or None for inputs it cannot take; see `Fused`."""
        if not takes(x):
            return None
        joined, n_tokens = self._with(others), x.shape[0]
        rows = torch.empty((n_tokens, joined.width), dtype=torch.long)
        scores, weights = (torch.empty((n_tokens, joined.width)) for _ in range(2))
        total = torch.empty((n_tokens, self.stack.d_out))
        joined.run(x, owners, total, choice=(rows, scores, weights))
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
        if not takes(x) or out.dtype not in SUMMED or out.requires_grad:
            return None
        base = out.contiguous()
        total = torch.empty_like(base)
        self._with(others).run(x, owners, total, base)
        return total

    def _with(self, others: Sequence[CompiledSlot]) -> Joined:
        """Returns its router and those of others; made once for the same ones."""
        if self._joined.others is not others and self._joined.others != tuple(others):
            self._joined = Joined(self, tuple(others))
        return self._joined


class Joined:
    """The routers of one slot and others over its stack, and the operator's one call of them.

    What the operator is handed is kept and filled anew for each call, of which a model's forward
    pass makes one after another: a token's way there counts.

    Args:
        first: of the slots.
        others: the rest.

    Attributes:
        width: the most adapters that a token can have.
    """

    def __init__(self, first: CompiledSlot, others: tuple[CompiledSlot, ...]) -> None:
        slots = (first, *others)
        self.others = others
        self.width = max(slot.width for slot in slots)
        self._stack = first.stack
        self._routers = (RouterStruct * len(slots))(*(slot.struct for slot in slots))
        self._is_approximate = all(slot.is_approximate for slot in slots)
        self._call = CallStruct(width=self.width, is_approximate=self._is_approximate)
        self._addresses = (
            ctypes.addressof(first.stack.struct),
            ctypes.addressof(self._routers),
            ctypes.addressof(self._call),
        )

    def run(
        self,
        x: Tensor,
        router_of: Tensor | None,
        total: Tensor,
        base: Tensor | None = None,
        choice: tuple[Tensor, Tensor, Tensor] | None = None,
    ) -> None:
        """Runs the operator; all tensors but x are contiguous.

        Args:
            x: inputs; (..., D_in), T tokens.
            router_of: the router of each token, -1 for none, (T,) int32; None where all have the
                first.
            total: takes the updates, or base plus them; (..., D_out).
            base: what they are added to; as total.
            choice: take the rows, int64, the scores and the weights; (T, width) each.
        """
        stack, call, x = self._stack, self._call, x.contiguous()
        n_tokens = x.numel() // stack.d_in
        stack.prepare(n_tokens, is_approximate=self._is_approximate)
        call.x, call.x_element = x.data_ptr(), ELEMENTS[x.dtype]
        call.n_threads, call.n_tokens = torch.get_num_threads(), n_tokens
        call.router_of = None if router_of is None else router_of.data_ptr()
        call.base = None if base is None else base.data_ptr()
        call.total, call.total_element = total.data_ptr(), ELEMENTS[total.dtype]
        call.rows = None
        if choice is not None:
            call.rows, call.scores, call.weights = (part.data_ptr() for part in choice)
        if stack.route(*self._addresses):
            raise MemoryError(f"no memory to route {n_tokens} tokens over {stack.n} adapters")
        if stack.is_bounded:
            stack.trim()


def takes(x: Tensor) -> bool:
    """Whether the operator can read these inputs; it computes no gradients."""
    return x.dtype in ELEMENTS and x.is_cpu and not x.requires_grad and x.numel() > 0


def is_compiled(router: Router, n: int) -> bool:
    """Whether the operator knows the router, over n adapters."""
    if isinstance(router, LAG):
        limit = router.k_max if router.retrieve_k == "adaptive" else router.retrieve_k
        return min(limit, n) <= MOST_CANDIDATES
    return isinstance(router, Arrow) and min(router.top_k, n) <= MOST_CANDIDATES


def width_of(router: Router, n: int) -> int:
    """Returns how many adapters a token of the router can have."""
    return min(router.top_k, n) if isinstance(router, Arrow) else 1


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
