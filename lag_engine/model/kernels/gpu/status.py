"""Whether the kernels can run here."""

from __future__ import annotations

from importlib.util import find_spec

import torch

from lag_engine.model.kernels.build import KernelStatus


def gpu_status() -> KernelStatus:
    """Returns whether the kernels can run here, and why or why not."""
    if find_spec("triton") is None:
        return KernelStatus(False, "Triton is not installed")
    version = f"Triton {_triton_version()}"
    if is_interpreted():
        return KernelStatus(True, f"{version} interprets them on the CPU, slowly")
    if not torch.cuda.is_available():
        return KernelStatus(False, f"there is {version}, but no CUDA device that PyTorch can use")
    return KernelStatus(True, f"{version} compiles them for {torch.cuda.get_device_name()}")


def runs_on(device: torch.device) -> bool:
    """Whether the kernels, of which there is a form, can read tensors of this device."""
    return device.type == "cuda" or is_interpreted()


def is_interpreted() -> bool:
    """Whether TRITON_INTERPRET was set as Triton was imported."""
    from triton import knobs

    return bool(knobs.runtime.interpret)


def _triton_version() -> str:
    import triton

    return str(triton.__version__)
