"""What the GPU kernels take of a Hopper processor, as Triton's compiler builds them; needs no GPU.

Every launch of a routed module is recorded, with its types and sizes, and compiled for sm_90.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

os.environ["TRITON_INTERPRET"] = "0"

import torch
import triton
from common import CONSOLE_WIDTH, parser
from rich.console import Console
from rich.table import Table
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from lag_engine.model.kernels.gpu import launch
from lag_engine.model.kernels.gpu.table import FIELDS

TARGET = GPUTarget("cuda", 90, 32)
TYPES = {
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.int64: "i64",
    torch.int32: "i32",
    torch.uint8: "u8",
}
ALIGNMENT = 16
"""Of addresses from PyTorch's allocator, and what Triton tells its compiler of numbers."""


class Case(NamedTuple):
    """A module's call.

    Attributes:
        adapters: how many.
        tokens: how many.
        dtype: of inputs and factors.
        rank: of each adapter.
        width: of the module's input and output.
        retrieve_k: candidates.
        together: whether tokens have routers of their own.
    """

    adapters: int
    tokens: int
    dtype: str = "bfloat16"
    rank: int = 8
    width: int = 4096
    retrieve_k: int = 20
    together: bool = False


CASES = (
    Case(64, 1),
    Case(1000, 1),
    Case(10_000, 1),
    Case(50_000, 1),
    Case(1000, 1, "float32"),
    Case(1000, 1, rank=64),
    Case(1000, 8, together=True),
    Case(1000, 512),
    Case(1000, 512, "float32"),
    Case(64, 512, "float32"),
    Case(10_000, 512, together=True),
)
QUICK = (Case(64, 1), Case(64, 9, together=True), Case(64, 9, "float32", width=48, retrieve_k=4))
"""Every branch of every kernel, soon compiled."""

COLUMNS = ("kernel", "N", "T", "dtype", "rank", "warps", "registers", "stack", "shared")


class Kept:
    """Takes the place of a kernel and keeps what it is launched with."""

    def __init__(self, kernel: Any, launches: list[tuple[Any, tuple[Any, ...], dict[str, Any]]]):
        self._kernel, self._launches = kernel, launches

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return lambda *args, **sizes: self._launches.append((self._kernel, args, sizes))


def main(argv: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Runs the program and returns what it prints."""
    options = parser(__doc__).parse_args(argv)
    rows = [row for case in (QUICK if options.quick else CASES) for row in resources(case)]
    table = Table(
        title=f"Triton {triton.__version__} for sm_{TARGET.arch}: registers and bytes of stack of "
        "a thread, bytes of shared memory of a program"
    )
    for column in COLUMNS:
        table.add_column(column, justify="left" if column in ("kernel", "dtype") else "right")
    for row in rows:
        table.add_row(*(str(row[column]) for column in COLUMNS))
    Console(width=CONSOLE_WIDTH).print(table)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    return rows


def resources(case: Case) -> Iterator[dict[str, Any]]:
    """Yields what each of a call's programs takes."""
    for kernel, args, sizes in launches_of(case):
        options = {"num_warps": sizes.pop("num_warps", 4)}
        compiled = triton.compile(_source(kernel, args, sizes), target=TARGET, options=options)
        registers, stack = _usage(compiled.asm["cubin"])
        yield {
            "kernel": kernel.__name__,
            "N": case.adapters,
            "T": case.tokens,
            "dtype": case.dtype,
            "rank": case.rank,
            "warps": options["num_warps"],
            "registers": registers,
            "stack": stack,
            "shared": compiled.metadata.shared,
            "sizes": sizes,
        }


def launches_of(case: Case) -> list[tuple[Any, tuple[Any, ...], dict[str, Any]]]:
    """Returns what a call launches: kernel, arguments and sizes; tensors have no numbers."""
    dtype, launches = getattr(torch, case.dtype), []
    kernels = {
        name: getattr(launch, name) for name in ("retrieve", "project_all", "project", "apply")
    }
    try:
        for name, kernel in kernels.items():
            setattr(launch, name, Kept(kernel, launches))
        with torch.device("meta"):
            call = launch.Call(
                x=torch.empty(case.tokens, case.width, dtype=dtype),
                stack=_stack(case, dtype),
                owners=torch.empty(case.tokens, dtype=torch.int32) if case.together else None,
                routers=torch.empty(2, FIELDS.value),
                allowed=torch.empty(2, case.adapters, dtype=torch.uint8),
                n_candidates=min(case.retrieve_k, case.adapters),
                width=1,
            )
            if case.together:
                launch.update(call)
            else:
                launch.added(call, call.x)
    finally:
        for name, kernel in kernels.items():
            setattr(launch, name, kernel)
    return launches


def _stack(case: Case, dtype: torch.dtype) -> SimpleNamespace:
    """Returns what a `DeviceStack` has."""
    factors = torch.empty(case.adapters, case.rank, case.width, dtype=dtype)
    return SimpleNamespace(
        n=case.adapters,
        rank=case.rank,
        d_in=case.width,
        d_out=case.width,
        arrow=factors[:, 0],
        singular=torch.empty(case.adapters, case.rank),
        A=factors,
        B=factors,
    )


def _source(kernel: Any, args: tuple[Any, ...], sizes: dict[str, Any]) -> ASTSource:
    """Returns a kernel with the types that a launch would give it."""
    signature, constants, attributes = {}, dict(sizes), {}
    values = dict(zip((p.name for p in kernel.params), args, strict=False)) | sizes
    for parameter in kernel.params:
        name, value = parameter.name, values[parameter.name]
        if parameter.is_constexpr or value is None:
            signature[name], constants[name] = "constexpr", value
            continue
        is_tensor = isinstance(value, torch.Tensor)
        signature[name] = f"*{TYPES[value.dtype]}" if is_tensor else "i32"
        if is_tensor or value % ALIGNMENT == 0:
            attributes[parameter.num,] = [["tt.divisibility", ALIGNMENT]]
    return ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)


def _usage(binary: bytes) -> tuple[int, int]:
    """Returns a thread's registers, and the bytes of its stack, which holds what they cannot."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name]
        told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", told)
    assert found is not None, told
    return int(found[1]), int(found[2])


if __name__ == "__main__":
    main(sys.argv[1:])
