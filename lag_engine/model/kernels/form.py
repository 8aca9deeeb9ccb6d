"""Which form of the products routed modules use: compiled where it can be, PyTorch elsewhere."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from lag_engine.errors import ModelError
from lag_engine.model.kernels.build import KernelStatus, build
from lag_engine.model.kernels.gpu.status import gpu_status
from lag_engine.model.kernels.slot import CompiledSlot, is_compiled
from lag_engine.routing import GROUPED, Form

if TYPE_CHECKING:
    from torch import Tensor

    from lag_engine.routing import Router, Stack

VARIABLE = "LAG_KERNELS"
CHOICES = ("auto", "cpp", "torch", "triton")


def fuse(router: Router, stack: Stack, allowed: Tensor | None) -> CompiledSlot | None:
    """Returns the compiled update of a stack by a router; None where PyTorch must do it."""
    compiled = getattr(stack, "compiled", None)
    if compiled is None or not is_compiled(router, compiled.n):
        return None
    return CompiledSlot(router, compiled, allowed)


CPP = Form("cpp", GROUPED.project, GROUPED.apply, fuse)
"""The compiled operator; what it does not know is computed as `GROUPED` does, whoever asks for it.

That is other routers than Arrow and LAG, more candidates than `MOST_CANDIDATES`, adapters that do
not lie in memory as a library's do, dtypes that are not in `structs.py`, and gradients.
"""


def default_form() -> Form:
    """Returns the form that LAG_KERNELS asks for; "auto" takes the fastest there is on the CPU.

    "cpp" promises that the operator is there, not that it computes everything; see `CPP`.

    Raises:
        ModelError: the variable has another value, or asks for what cannot be had here.
    """
    if _wanted() == "triton":
        return _triton()
    return CPP if kernel_status().is_ready else GROUPED


def kernel_status() -> KernelStatus:
    """Returns whether the compiled operator runs, and why; builds it where that is still to do.

    Raises:
        ModelError: the variable has another value, or asks for what cannot be built here.
    """
    wanted = _wanted()
    if wanted == "torch":
        return KernelStatus(False, f"{VARIABLE}=torch asks for plain PyTorch")
    if wanted == "triton":
        return KernelStatus(False, f"{VARIABLE}=triton asks for the GPU kernels")
    status = build().status
    if wanted == "cpp" and not status.is_ready:
        raise ModelError(
            f"Expected the compiled operator, as {VARIABLE}=cpp asks for it",
            f"Found that {status.reason}",
            f"Mend that (it takes a C++20 compiler), or unset {VARIABLE} to run in PyTorch",
        )
    return status


def _wanted() -> str:
    wanted = os.environ.get(VARIABLE) or "auto"
    if wanted not in CHOICES:
        raise ModelError(
            f"Expected {VARIABLE} to be one of {', '.join(CHOICES)}",
            f"Found {wanted!r}",
            "Unset it for the fastest form that can be built here",
        )
    return wanted


def _triton() -> Form:
    status = gpu_status()
    if not status.is_ready:
        raise ModelError(
            f"Expected to run the GPU kernels, as {VARIABLE}=triton asks for them",
            f"Found that {status.reason}",
            f"Run on a CUDA device with PyTorch's CUDA build, or unset {VARIABLE}",
        )
    from lag_engine.model.kernels.gpu.form import TRITON

    return TRITON
