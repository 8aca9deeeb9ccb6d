"""What a library costs: PEFT checkpoints added per second, and opening it in time and memory.

Adding reads each checkpoint from a PEFT folder, checks it, brings it into spectral form and writes
it; the making of the folders is not in it, nor is waiting for the disk: it is CPU time. Opening is
measured in a fresh process, on files that were just read or written and so are cached.
"""

from __future__ import annotations

import json
import shutil
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
    SHAPES,
    build_model,
    counts,
    growth_exponent,
    one_thread,
    open_report,
    parsed,
    parser,
    write_json,
)
from libraries import MODULES, Recipe, opened
from rich.table import Table

from lag_engine import AdapterLibrary, PeftAdapter, write_peft
from lag_engine.adapters import AdapterSource

COLUMNS = (
    ("adapters", "adapters", 1, 0),
    ("add s", "add_s", 1, 2),
    ("per s", "per_second", 1, 0),
    ("peak MB", "add_peak_bytes", 1e-6, 0),
    ("disk MB", "disk_bytes", 1e-6, 0),
    ("1st open ms", "open_first_ms", 1, 1),
    ("open ms", "open_again_ms", 1, 1),
    ("ready ms", "ready_ms", 1, 1),
    ("resident MB", "resident_bytes", 1e-6, 1),
    ("arrow MB", "arrow_bytes", 1e-6, 1),
    ("peak MB", "open_peak_bytes", 1e-6, 1),
)
"""Heading, key of a result, factor and digits; each peak belongs to what stands before it."""

TARGETS = {"per_second": 100, "exponent": 1.05, "open_ms": 1000, "resident_bytes": 200_000_000}
"""Least rate, steepest growth, longest opening, most memory above the arrow vectors."""


class Checkpoints:
    """PEFT folders on their way into a library, each there until the next is asked for.

    Args:
        recipe: of the adapters.
        folder: where they are written.

    Attributes:
        seconds: CPU time of the making so far.
    """

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        model = build_model(recipe.shape, device="meta")
        self._sources, self._folder = recipe.sources(model), folder
        self.seconds = 0.0

    def __iter__(self) -> Iterator[AdapterSource]:
        return self

    def __next__(self) -> AdapterSource:
        start = time.thread_time()
        try:
            source = next(self._sources)
            assert isinstance(source.source, PeftAdapter)
            shutil.rmtree(self._folder, ignore_errors=True)
            write_peft(self._folder, source.source)
            return AdapterSource(self._folder, name=source.name)
        finally:
            self.seconds += time.thread_time() - start


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Runs the program and returns what it prints."""
    options = _options(argv)
    with one_thread():
        facts, console = open_report()
        results = [measure(_recipe(n, options)) for n in options.adapters]
        results += [measure_opening(_recipe(n, options), options) for n in options.open]
    added = [row for row in results if row["add_s"] is not None]
    exponent = growth_exponent([r["adapters"] for r in added], [r["add_s"] for r in added])
    console.print(_table(results, options))
    console.print(f"Exponent of the time of adding, in N: {exponent:.2f}")
    report = {
        "program": "bench_library",
        "machine": facts,
        "settings": {**SHAPES[options.shape], **vars(options)},
        "targets": TARGETS,
        "results": results,
        "growth_exponent": exponent,
    }
    write_json(options.json, report)
    return report


def measure(recipe: Recipe) -> dict[str, Any]:
    """Makes a library of checkpoints, then opens it in a process of its own; peaks as there."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "library"
        checkpoints = Checkpoints(recipe, Path(folder) / "checkpoint")
        model = build_model(recipe.shape, device="meta")
        opening.restart_peak()
        before = opening.resident_bytes()
        with AdapterLibrary.create(path, base_model=model, dtype=recipe.store) as library:
            start = time.thread_time()
            library.add_many(checkpoints, progress=False)
            seconds = time.thread_time() - start - checkpoints.seconds
        added = {
            "add_s": seconds,
            "per_second": recipe.adapters / seconds,
            "add_peak_bytes": opening.peak_bytes() - before,
        }
        return {"adapters": recipe.adapters, **added, **_opened(path)}


def measure_opening(recipe: Recipe, options: Namespace) -> dict[str, Any]:
    """Opens a library that was made before, or is made now without being timed."""
    added = dict.fromkeys(("add_s", "per_second", "add_peak_bytes"))
    with opened(recipe, options.library_cache) as library:
        return {"adapters": recipe.adapters, **added, **_opened(library.path)}


def _opened(path: Path) -> dict[str, Any]:
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    command = [sys.executable, opening.__file__, str(path)]
    answer = subprocess.run(command, check=True, capture_output=True, text=True)
    return {"disk_bytes": size, **json.loads(answer.stdout)}


def _recipe(n: int, options: Namespace) -> Recipe:
    return Recipe(options.shape, n, modules=options.modules, store=options.store)


def _table(results: Sequence[dict[str, Any]], options: Namespace) -> Table:
    table = Table(
        title=f"shape {options.shape}, library {options.store} on {options.modules} linears; "
        f"targets: {TARGETS['per_second']} a second, opened in {TARGETS['open_ms']} ms, resident "
        f"<= arrow + {TARGETS['resident_bytes'] / 1e6:.0f} MB"
    )
    for heading, *_ in COLUMNS:
        table.add_column(heading, justify="right")
    for row in results:
        table.add_row(
            *(
                "" if row[key] is None else f"{row[key] * scale:.{digits}f}"
                for _, key, scale, digits in COLUMNS
            )
        )
    return table


def _options(argv: Sequence[str] | None) -> Namespace:
    arguments = parser(__doc__, adapters=(100, 300, 1000))
    arguments.add_argument("--modules", choices=MODULES, default="attention")
    arguments.add_argument("--open", type=counts, default=[], metavar="N,N,...", help="only open")
    arguments.add_argument("--library-cache", type=Path, metavar="DIR", help="keep libraries here")
    return parsed(arguments, argv, shape="small", adapters=[30, 100, 300])


if __name__ == "__main__":
    main(sys.argv[1:])
