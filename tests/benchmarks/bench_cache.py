"""What `factor_cache_bytes` keeps and costs: decoding over a library with and without the bound.

Each bound has processes of its own, in turns with the others. A step is CPU time, page faults
included; the library's files are in the system's cache. What is held of them is what Linux tells
after each step. Tokens and adapters are random: hardly an adapter is used twice.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import opening
import torch
from common import (
    Spread,
    build_model,
    compared,
    count,
    counts,
    one_thread,
    open_report,
    parsed,
    parser,
    write_json,
)
from libraries import MODULES, Recipe, opened
from rich.table import Table
from transformers import DynamicCache, LlamaForCausalLM
from works import CONTEXT

from lag_engine import AdapterLibrary, Plan
from lag_engine.model.bank import AdapterBank
from lag_engine.model.surgery import Surgery, install

RESIDENT_TARGET_BYTES = 200_000_000
"""Above the arrow vectors and the bound."""

SIZES = {
    "ready MB": "ready_bytes",
    "decoded MB": "decoded_bytes",
    "prompted MB": "prompted_bytes",
    "of files MB": "most_file_bytes",
}
"""Heading and key of what is held after the first step, the last, a prompt; of files at most."""


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Runs the program and returns what it prints."""
    options = _options(argv)
    with one_thread():
        facts, console = open_report()
        results = [row for n in options.adapters for row in measure(n, options)]
    console.print(_table(results, options))
    report = {
        "program": "bench_cache",
        "machine": facts,
        "settings": vars(options),
        "targets": {"resident_bytes": RESIDENT_TARGET_BYTES},
        "results": results,
    }
    write_json(options.json, report)
    return report


def measure(n: int, options: Namespace) -> list[dict[str, Any]]:
    """Decodes over a library of n adapters under each bound."""
    recipe = Recipe(options.shape, n, modules=options.modules, store=options.store)
    bounds = [0, *options.bounds]
    with opened(recipe, options.library_cache) as library:
        rounds = [
            {bound: _in_process(library.path, bound, options) for bound in bounds}
            for _ in range(options.rounds)
        ]
    return [_row(n, bound, rounds) for bound in bounds]


def _row(n: int, bound: int, rounds: Sequence[Mapping[int, Any]]) -> dict[str, Any]:
    own, free = ([found[key] for found in rounds] for key in (bound, 0))
    lag, base = ([found[key] for found in own] for key in ("lag_ms", "base_ms"))
    return {
        "adapters": n,
        "bound_mb": bound or None,
        "base_ms": Spread.of(base),
        "lag_ms": Spread.of(lag),
        "ratio": compared(lag, base),
        "of_unbounded": compared(lag, [found["lag_ms"] for found in free]),
        "arrow_bytes": own[0]["arrow_bytes"],
        **{key: max(found[key] for found in own) for key in SIZES.values()},
    }


def _in_process(path: Path, bound: int, options: Namespace) -> dict[str, Any]:
    command = [sys.executable, __file__, "--decode", str(path), str(bound)]
    command += [options.shape, options.dtype, str(options.tokens)]
    answer = subprocess.run(command, check=True, capture_output=True, text=True)
    told: dict[str, Any] = json.loads(answer.stdout)
    return told


def decode(path: Path, bound: int, shape: str, dtype: str, n_tokens: int) -> dict[str, Any]:
    """Decodes, then reads a prompt; bytes are above what the process held with its model."""
    model = build_model(shape, dtype)
    bound_bytes = bound * 10**6 or None
    before = opening.resident_bytes()
    with (
        AdapterLibrary.open(path, read_only=True, factor_cache_bytes=bound_bytes) as library,
        install(model, AdapterBank(library)) as surgery,
    ):
        base_ms, _ = _steps(model, surgery, "base", n_tokens, path)
        _steps(model, surgery, "lag", 1, path)
        ready = opening.resident_bytes() - before
        lag_ms, most = _steps(model, surgery, "lag", n_tokens, path)
        decoded = opening.resident_bytes() - before
        with surgery.activate([Plan.from_mode("lag")]):
            _read(model, 16 * CONTEXT, DynamicCache())
        width = sum(shape.d_in for shape in library.modules("task").values())
        return {
            "base_ms": base_ms,
            "lag_ms": lag_ms,
            "arrow_bytes": len(library) * width * library.dtype.itemsize,
            "ready_bytes": ready,
            "decoded_bytes": decoded,
            "prompted_bytes": opening.resident_bytes() - before,
            "most_file_bytes": max(most, opening.held_bytes(path)),
        }


def _steps(
    model: LlamaForCausalLM, surgery: Surgery, mode: str, n_tokens: int, path: Path
) -> tuple[float, int]:
    """Returns the median milliseconds of a step, and the most that was held of files after one."""
    torch.manual_seed(0)
    cache, times, most = DynamicCache(), [], 0
    with surgery.activate([Plan.from_mode(mode)]):
        _read(model, CONTEXT, cache)
        for _ in range(n_tokens):
            times.append(_read(model, 1, cache))
            most = max(most, opening.held_bytes(path))
    return statistics.median(times), most


@torch.inference_mode()
def _read(model: LlamaForCausalLM, n_tokens: int, cache: DynamicCache) -> float:
    """Reads tokens; returns milliseconds."""
    ids = torch.randint(model.config.vocab_size, (1, n_tokens))
    start = time.thread_time()
    model(ids, past_key_values=cache, logits_to_keep=1)
    return 1e3 * (time.thread_time() - start)


def _table(results: Sequence[dict[str, Any]], options: Namespace) -> Table:
    table = Table(
        title=f"shape {options.shape} {options.dtype}, library {options.store} on "
        f"{options.modules} linears, {options.tokens} steps of decoding; held after the first "
        f"step, the last, a prompt; target: resident <= arrow + bound + "
        f"{RESIDENT_TARGET_BYTES / 1e6:.0f} MB"
    )
    for heading in ("N", "bound MB", "ms a token", "x base", "x unbounded", "arrow MB", *SIZES):
        table.add_column(heading, justify="right")
    for row in results:
        table.add_row(
            str(row["adapters"]),
            "none" if row["bound_mb"] is None else str(row["bound_mb"]),
            row["lag_ms"].text(1),
            f"{row['ratio'].median:.2f}",
            f"{row['of_unbounded'].median:.2f}",
            *(f"{row[key] / 1e6:.0f}" for key in ("arrow_bytes", *SIZES.values())),
        )
    return table


def _options(argv: Sequence[str] | None) -> Namespace:
    arguments = parser(__doc__, adapters=(10_000,))
    arguments.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    arguments.add_argument("--modules", choices=MODULES, default="attention")
    arguments.add_argument("--bounds", type=counts, default=[256, 1024], metavar="MB,MB,...")
    arguments.add_argument("--library-cache", type=Path, metavar="DIR", help="keep libraries here")
    arguments.add_argument("--tokens", type=count, default=64)
    arguments.add_argument("--rounds", type=count, default=3)
    return parsed(arguments, argv, shape="small", adapters=[200], bounds=[1], tokens=4, rounds=1)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--decode"]:
        torch.set_num_threads(1)
        folder, bound, shape, dtype, n_tokens = sys.argv[2:]
        found = decode(Path(folder), int(bound), shape, dtype, int(n_tokens))
        sys.stdout.write(json.dumps(found))
    else:
        main(sys.argv[1:])
