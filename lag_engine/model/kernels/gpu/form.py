"""The kernels as a form; imported only where it is asked for, as it imports Triton."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lag_engine.model.kernels.gpu.slot import DeviceSlot, knows
from lag_engine.model.kernels.gpu.stack import on_device
from lag_engine.model.kernels.gpu.status import runs_on
from lag_engine.routing import GROUPED, Form

if TYPE_CHECKING:
    from torch import Tensor

    from lag_engine.routing import Router, Stack


def fuse(router: Router, stack: Stack, allowed: Tensor | None) -> DeviceSlot | None:
    """Returns the kernels' update of a stack by a router; None where PyTorch must do it."""
    if not runs_on(stack.singular.device) or not knows(router, len(stack.singular)):
        return None
    held = on_device(stack)
    return None if held is None else DeviceSlot(router, held, allowed)


TRITON = Form("triton", GROUPED.project, GROUPED.apply, fuse)
"""The kernels; what they do not know is computed as `GROUPED` does."""
