"""What a token's factors cost, read from memory or from disk, and what stays resident.

For each token and module the factors of K adapters are read, and the left factors of one: what a
`lag` plan reads, without the model. The rows of a token were never read before. Cold: the system
was told to forget the files; times are wall time, for waiting for the disk is what is measured.
`in place` reads mapped pages as they are touched, without announcing them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import opening
import torch
from common import Spread, count, one_thread, open_report, parsed, parser, write_json
from libraries import MODULES, Recipe, opened
from rich.table import Table
from torch import Tensor

from lag_engine import AdapterLibrary
from lag_engine.adapters import ModuleStack
from lag_engine.adapters.factor_file import FactorFile

WAYS = ("in place", "mapped", "copied")
COLD_TARGET_MS = 60
RESIDENT_TARGET_BYTES = 200_000_000
"""Above the arrow vectors."""


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Runs the program and returns what it prints."""
    options = _options(argv)
    with one_thread():
        facts, console = open_report()
        results = [row for n in options.adapters for row in measure(n, options)]
    console.print(_table(results, options))
    report = {
        "program": "bench_memory",
        "machine": facts,
        "settings": vars(options),
        "targets": {"cold_ms": COLD_TARGET_MS, "resident_bytes": RESIDENT_TARGET_BYTES},
        "results": results,
    }
    write_json(options.json, report)
    return report


def measure(n: int, options: Namespace) -> list[dict[str, Any]]:
    """Over a library of n adapters; each way of reading has a process of its own."""
    recipe = Recipe(options.shape, n, modules=options.modules, store=options.store)
    with opened(recipe, options.library_cache) as library:
        return [_in_process(library.path, way, n, options) for way in WAYS]


def _in_process(path: Path, way: str, n: int, options: Namespace) -> dict[str, Any]:
    counts = [str(options.retrieve_k), str(min(options.tokens, n // options.retrieve_k))]
    command = [sys.executable, __file__, "--read", str(path), way, *counts]
    answer = subprocess.run(command, check=True, capture_output=True, text=True)
    told = json.loads(answer.stdout)
    return {
        "adapters": n,
        "way": way,
        "cold_ms": Spread.of(told["cold_ms"]),
        "warm_ms": Spread.of(told["warm_ms"]),
        **{key: told[key] for key in ("resident_bytes", "arrow_bytes", "factor_bytes")},
    }


def read(path: Path, way: str, k: int, n_tokens: int) -> dict[str, Any]:
    """Reads the factors of some tokens, first from disk and then from memory."""
    before = opening.resident_bytes()
    with AdapterLibrary.open(path, read_only=True, map_factors=way != "copied") as library:
        stacks = [library.stack(module, "task") for module in library.modules("task")]
        files = list((path / "segments").iterdir())
    generator = torch.Generator().manual_seed(0)
    rows = [
        torch.randperm(len(stack), generator=generator)[: k * n_tokens].view(-1, k)
        for stack in stacks
    ]
    if way == "in place":
        FactorFile.expect = lambda *_: None  # type: ignore[method-assign]
    for stack in stacks:
        stack.arrow.sum()
    for file in files:
        _forget(file)
    cold, warm = (
        [_milliseconds(stacks, [of[token] for of in rows]) for token in range(n_tokens)]
        for _ in range(2)
    )
    return {
        "cold_ms": cold,
        "warm_ms": warm,
        "resident_bytes": opening.resident_bytes() - before,
        "arrow_bytes": sum(stack.arrow.nbytes for stack in stacks),
        "factor_bytes": sum(file.stat().st_size for file in files),
    }


def _milliseconds(stacks: Sequence[ModuleStack], rows: Sequence[Tensor]) -> float:
    start = time.perf_counter()
    for stack, some in zip(stacks, rows, strict=True):
        stack.A(some)
        stack.B(some[:1])
    return 1e3 * (time.perf_counter() - start)


def _forget(path: Path) -> None:
    """Has the system drop what it holds of a file and no process has touched."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _table(results: Sequence[dict[str, Any]], options: Namespace) -> Table:
    table = Table(
        title=f"shape {options.shape}, library {options.store} on {options.modules} "
        f"linears, K = {options.retrieve_k}; targets: cold <= "
        f"{COLD_TARGET_MS} ms, resident <= arrow + {RESIDENT_TARGET_BYTES / 1e6:.0f} MB"
    )
    for heading in ("adapters", "read", "cold ms/token", "warm ms/token", "resident MB"):
        table.add_column(heading, justify="right")
    for heading in ("arrow MB", "library MB"):
        table.add_column(heading, justify="right")
    for row in results:
        sizes = (row[f"{key}_bytes"] / 1e6 for key in ("resident", "arrow", "factor"))
        table.add_row(
            str(row["adapters"]),
            row["way"],
            row["cold_ms"].text(1),
            row["warm_ms"].text(1),
            *(f"{size:.0f}" for size in sizes),
        )
    return table


def _options(argv: Sequence[str] | None) -> Namespace:
    arguments = parser(__doc__, adapters=(1000,))
    arguments.add_argument("--modules", choices=MODULES, default="attention")
    arguments.add_argument("--library-cache", type=Path, metavar="DIR", help="keep libraries here")
    arguments.add_argument("--retrieve-k", type=count, default=20, metavar="K")
    arguments.add_argument("--tokens", type=count, default=15)
    options = parsed(arguments, argv, shape="small", adapters=[200], tokens=5)
    if options.retrieve_k > options.adapters[0]:
        arguments.error(
            f"a token reads --retrieve-k {options.retrieve_k} adapters: give at least as many"
        )
    return options


if __name__ == "__main__":
    if sys.argv[1:2] == ["--read"]:
        torch.set_num_threads(1)
        folder, way, k, n_tokens = sys.argv[2:]
        sys.stdout.write(json.dumps(read(Path(folder), way, int(k), int(n_tokens))))
    else:
        main(sys.argv[1:])
