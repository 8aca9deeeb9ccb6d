"""What a library costs: adapters added per second, and opening it in time and memory.

Adding is timed without the making of the random adapters, as CPU time: waiting for the disk is not
in it. Opening is measured in a fresh process, on files that were just written and so are cached.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import opening
from common import (
    RANK,
    SHAPES,
    TARGETS,
    build_model,
    growth_exponent,
    growth_text,
    one_thread,
    open_report,
    parser,
    random_sources,
    write_json,
)
from rich.table import Table
from transformers import LlamaForCausalLM

from lag_engine import AdapterLibrary
from lag_engine.adapters import AdapterSource

DEFAULT_ADAPTERS = (100, 300, 1000)
COLUMNS = (
    ("adapters", "adapters", 1, 0),
    ("add s", "add_s", 1, 2),
    ("per s", "per_second", 1, 0),
    ("peak MB", "add_peak_bytes", 1e-6, 0),
    ("disk MB", "disk_bytes", 1e-6, 0),
    ("1st open ms", "open_first_ms", 1, 1),
    ("open ms", "open_again_ms", 1, 1),
    ("resident MB", "resident_bytes", 1e-6, 1),
    ("arrow MB", "arrow_bytes", 1e-6, 1),
    ("peak MB", "open_peak_bytes", 1e-6, 1),
)
"""Heading, key of a result, factor and digits; each peak belongs to what stands before it."""


class TimedSources:
    """Random adapters on their way into a library; knows what making them took.

    Attributes:
        seconds: CPU time of the making so far.
    """

    def __init__(self, model: LlamaForCausalLM, n: int) -> None:
        self._sources = random_sources(model, n)
        self.seconds = 0.0

    def __iter__(self) -> Iterator[AdapterSource]:
        return self

    def __next__(self) -> AdapterSource:
        start = time.thread_time()
        try:
            return next(self._sources)
        finally:
            self.seconds += time.thread_time() - start


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Runs the program and returns what it prints."""
    options = parser(__doc__, adapters=DEFAULT_ADAPTERS).parse_args(argv)
    with one_thread():
        facts, console = open_report()
        model = build_model(options.shape, device="meta")
        results = [measure(n, model, options) for n in options.adapters]
    exponent = growth_exponent(options.adapters, [row["add_s"] for row in results])
    console.print(_table(results, options))
    console.print(growth_text("The time of adding", cpu=exponent))
    settings = {"rank": RANK, "targets": TARGETS, **SHAPES[options.shape], **vars(options)}
    report = {
        "program": "bench_library",
        "machine": facts,
        "settings": settings,
        "results": results,
        "growth_exponent": exponent,
    }
    write_json(options.json, report)
    return report


def measure(n: int, model: LlamaForCausalLM, options: Namespace) -> dict[str, Any]:
    """Makes a library of n adapters, then opens it in a process of its own; peaks as there."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "library"
        opening.restart_peak()
        before = opening.resident_bytes()
        seconds = _add(n, model, path, options.store)
        peak = opening.peak_bytes() - before
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        command = [sys.executable, opening.__file__, str(path)]
        answer = subprocess.run(command, check=True, capture_output=True, text=True)
    opened = json.loads(answer.stdout)
    return {
        "adapters": n,
        "add_s": seconds,
        "per_second": n / seconds,
        "add_peak_bytes": peak,
        "disk_bytes": size,
        **opened,
    }


def _add(n: int, model: LlamaForCausalLM, path: Path, dtype: str) -> float:
    """CPU seconds to convert and add n adapters."""
    sources = TimedSources(model, n)
    with AdapterLibrary.create(path, base_model=model, dtype=dtype) as library:
        start = time.thread_time()
        library.add_many(sources, progress=False)
        return time.thread_time() - start - sources.seconds


def _table(results: Sequence[dict[str, Any]], options: Namespace) -> Table:
    table = Table(
        title=f"shape {options.shape}, library {options.store}, rank {RANK} on "
        f"{', '.join(name[0] for name in TARGETS)}"
    )
    for heading, *_ in COLUMNS:
        table.add_column(heading, justify="right")
    for row in results:
        table.add_row(*(f"{row[key] * scale:.{digits}f}" for _, key, scale, digits in COLUMNS))
    return table


if __name__ == "__main__":
    main(sys.argv[1:])
