"""The routed update as one compiled operator for the CPU; optional, and equal to the reference.

`default_form` is what routed modules use unless they are told: the compiled operator where it can
be built, plain PyTorch elsewhere. The environment variable LAG_KERNELS decides it: "auto", "torch",
or "cpp", with which it is an error not to have the operator; what that does not know (other routers
than Arrow and LAG, gradients: see `CPP`) PyTorch computes even then. "triton" takes the kernels of
`gpu/`, which are experimental and never chosen otherwise; it is an error where they cannot run.
"""

from lag_engine.model.kernels.build import KernelStatus
from lag_engine.model.kernels.form import CPP, default_form, kernel_status
from lag_engine.model.kernels.gpu.status import gpu_status
from lag_engine.model.kernels.slot import CompiledSlot

__all__ = ["CPP", "CompiledSlot", "KernelStatus", "default_form", "gpu_status", "kernel_status"]
