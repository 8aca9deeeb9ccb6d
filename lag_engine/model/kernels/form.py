"""Which form of the products routed modules use: compiled where it can be, PyTorch elsewhere."""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING

from lag_engine.errors import ModelError
from lag_engine.model.kernels.build import KernelStatus, build
from lag_engine.model.kernels.slot import CompiledSlot, is_compiled
from lag_engine.model.kernels.structs import declare
from lag_engine.routing import GROUPED, Form

if TYPE_CHECKING:
    from torch import Tensor

    from lag_engine.routing import Router, Stack

VARIABLE = "LAG_KERNELS"
CHOICES = ("auto", "cpp", "torch")


def fuse(router: Router, stack: Stack, allowed: Tensor | None) -> CompiledSlot | None:
    """Returns the compiled update of a stack by a router; None where PyTorch must do it."""
    compiled = getattr(stack, "compiled", None)
    if compiled is None or not is_compiled(router, compiled.n):
        return None
    return CompiledSlot(router, compiled, allowed)


CPP = Form("cpp", GROUPED.project, GROUPED.apply, fuse)
"""The compiled operator; what it does not know is computed as `GROUPED` does."""


def default_form() -> Form:
    """Returns the form that LAG_KERNELS asks for; "auto" takes the fastest there is.

    Raises:
        ModelError: the variable has another value, or asks for what cannot be built here.
    """
    return CPP if kernel_status().is_ready else GROUPED


def kernel_status() -> KernelStatus:
    """Returns whether the compiled operator runs, and why; builds it where that is still to do.

    Raises:
        ModelError: as for `default_form`.
    """
    wanted = os.environ.get(VARIABLE, "auto")
    if wanted not in CHOICES:
        raise ModelError(
            f"Expected {VARIABLE} to be one of {', '.join(CHOICES)}",
            f"Found {wanted!r}",
            "Unset it for the fastest form that can be built here",
        )
    if wanted == "torch":
        return KernelStatus(False, f"{VARIABLE}=torch asks for plain PyTorch")
    status = _declared()
    if wanted == "cpp" and not status.is_ready:
        raise ModelError(
            f"Expected the compiled operator, as {VARIABLE}=cpp asks for it",
            f"Found that {status.reason}",
            f"Install a C++20 compiler, or unset {VARIABLE} to run in PyTorch",
        )
    return status


@functools.cache
def _declared() -> KernelStatus:
    built = build()
    if built.loaded is not None:
        declare(built.loaded)
    return built.status
