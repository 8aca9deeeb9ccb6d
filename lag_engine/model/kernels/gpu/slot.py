"""A router over one stack, as the kernels take it."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeGuard

import torch

from lag_engine.model.kernels.gpu import launch
from lag_engine.model.kernels.gpu.launch import Call
from lag_engine.model.kernels.gpu.sizes import is_mergeable
from lag_engine.model.kernels.gpu.stack import ELEMENTS
from lag_engine.model.kernels.gpu.table import candidates_of, row_of, width_of
from lag_engine.routing.routers import LAG, Arrow

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from lag_engine.model.kernels.gpu.stack import DeviceStack
    from lag_engine.routing.choice import Router, Update

MOST_CANDIDATES = 128
"""A router that projects more adapters for each token is better served by matrix products."""


class DeviceSlot:
    """A router over one stack, ready to be called; nothing it does waits for the device.

    Args:
        router: one that `knows` accepts.
        stack: the module's adapters.
        allowed: rows that may be chosen; (N,) bool; None allows all.

    Attributes:
        stack: the module's adapters.
        row: the router's numbers; (FIELDS,).
        allowed: (N,) uint8.
        n_candidates: the most adapters that a token projects.
        width: the most adapters that a token can have.
    """

    def __init__(self, router: LAG | Arrow, stack: DeviceStack, allowed: Tensor | None) -> None:
        device = stack.A.device
        self.stack = stack
        self.width = width_of(router, stack.n)
        self.n_candidates = candidates_of(router, stack.n)
        self.row = row_of(router, stack.n).to(device)
        every = torch.ones(stack.n, dtype=torch.bool, device=device)
        self.allowed = (every if allowed is None else allowed).to(torch.uint8)

    def update(
        self, x: Tensor, *, others: Sequence[DeviceSlot] = (), owners: Tensor | None = None
    ) -> Update | None:
        """Returns the update of every token, or None for inputs it cannot take; see `Fused`."""
        return launch.update(self._call(x, others, owners)) if takes(x) else None

    def added(
        self,
        out: Tensor,
        x: Tensor,
        *,
        others: Sequence[DeviceSlot] = (),
        owners: Tensor | None = None,
    ) -> Tensor | None:
        """Returns `out` plus the update of every token, in its dtype; see `Fused`."""
        if not takes(x) or out.dtype not in ELEMENTS or out.requires_grad:
            return None
        return launch.added(self._call(x, others, owners), out.contiguous())

    def _call(self, x: Tensor, others: Sequence[DeviceSlot], owners: Tensor | None) -> Call:
        slots = (self, *others)
        return Call(
            x.reshape(-1, x.shape[-1]).contiguous(),
            self.stack,
            owners,
            torch.stack([slot.row for slot in slots]),
            torch.stack([slot.allowed for slot in slots]),
            n_candidates=max(slot.n_candidates for slot in slots),
            width=max(slot.width for slot in slots),
        )


def takes(x: Tensor) -> bool:
    """Whether the kernels can read these inputs; they compute no gradients."""
    return x.dtype in ELEMENTS and not x.requires_grad and x.numel() > 0


def knows(router: Router, n: int) -> TypeGuard[LAG | Arrow]:
    """Whether the kernels know the router, over n adapters."""
    if not isinstance(router, LAG | Arrow):
        return False
    k = candidates_of(router, n)
    return 0 < k <= MOST_CANDIDATES and is_mergeable(n, k)
