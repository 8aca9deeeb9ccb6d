"""`lag doctor`: what runs here, and why."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from rich.table import Table

from lag_engine.cli.console import n_bytes_text, out

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lag_engine.model.kernels import KernelStatus

PACKAGES = ("lag-integrations", "torch", "transformers", "peft")


def doctor() -> None:
    """Say what runs here: the machine, versions, and which form computes the routed updates."""
    table = Table(show_header=False, box=None)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    try:
        for label, text in _facts():
            table.add_row(label, text)
    finally:  # what could be found out stands above what is wrong
        out.print(table)


def _facts() -> Iterator[tuple[str, str]]:
    import torch

    from lag_engine.model.kernels import default_form, gpu_status, kernel_status

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    yield "system", f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    yield "processor", f"{os.cpu_count()} cores, {n_bytes_text(memory)} of memory"
    yield "vectors", f"PyTorch uses {torch.backends.cpu.get_cpu_capability()}"
    yield "threads", f"{torch.get_num_threads()} (OMP_NUM_THREADS or torch.set_num_threads)"
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    yield "GPU", ", ".join(gpus) or "none that PyTorch can use"
    yield from ((package, _version(package)) for package in PACKAGES)
    status = kernel_status()
    form = "the compiled operator" if status.is_ready else "plain PyTorch"
    yield "routed updates", f"{form} on the CPU: {status.reason}"
    if status.library is not None:
        yield "", _approximate(status)
        yield "", f"{status.library}"
    yield "", f"on a GPU: {_on_gpu(default_form().name, gpu_status())}"
    yield "", "LAG_KERNELS=auto, cpp, torch or triton decides"


def _approximate(status: KernelStatus) -> str:
    if status.reads_nibbles:
        return "approximate routing scans four bits of large stacks"
    return "approximate routing is exact here: the processor has no AVX-512 VNNI"


def _on_gpu(form: str, status: KernelStatus) -> str:
    if form == "triton":
        return f"Triton kernels, experimental: {status.reason}"
    reason = "LAG_KERNELS=triton switches them on" if status.is_ready else status.reason
    return f"plain PyTorch; the Triton kernels are experimental and off: {reason}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
