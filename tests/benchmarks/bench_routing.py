"""Decode and prefill under routing against the same model without it, row by row with its target.

Forward passes alone, one after another in one process, base and variant in turns.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from common import (
    RANK,
    SHAPES,
    Spread,
    build_model,
    compared,
    growth_exponent,
    one_thread,
    open_report,
    parser,
    random_adapter,
    random_sources,
    write_json,
)
from peers import mttl_arrow, peft_arrow
from rich.table import Table
from transformers import DynamicCache, LlamaForCausalLM

from lag_engine import AdapterLibrary, Plan
from lag_engine.model.bank import AdapterBank
from lag_engine.model.kernels import kernel_status
from lag_engine.model.surgery import install

Forward = Callable[[], float]
"""Runs a model forward; returns the CPU seconds of one step, or of one prompt."""

CONTEXT = 16


class Target(NamedTuple):
    """A row of the table: what is asked of it at N = 1,000 on shape S."""

    work: str
    dtype: str
    ratio: float


TARGETS = (
    Target("decode", "float32", 1.20),
    Target("decode", "bfloat16", 1.17),
    Target("prefill", "float32", 1.30),
    Target("prefill", "bfloat16", 1.80),
    Target("batch of 8, one plan", "float32", 1.40),
    Target("batch of 8, eight plans", "float32", 1.40),
)
TARGET_ADAPTERS, TARGET_SHAPE = 1000, "S"


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Runs the program and returns what it prints."""
    options = _options(argv)
    with one_thread():
        facts, console = open_report()
        status = kernel_status()
        console.print(f"routed updates: {status.reason}", soft_wrap=True)
        rows = [row for n in options.adapters for row in measure(n, options)]
    lag = [row for row in rows if row["variant"] == "lag"]
    growth = {work: _growth(lag, work) for work in ("decode", "prefill")}
    table = _table(rows, options)
    console.print(table)
    console.print(_growth_text(growth))
    report = {
        "program": "bench_routing",
        "machine": facts,
        "kernels": status.reason.split(" by ")[0],
        "settings": {"rank": RANK, **SHAPES[options.shape], **vars(options)},
        "results": rows,
        "growth_exponents": growth,
    }
    write_json(options.json, report)
    return report


def measure(n: int, options: Namespace) -> Iterator[dict[str, Any]]:
    """Times every piece of work over n adapters, each variant against the base."""
    model = build_model(options.shape, options.dtype)
    peers = {}
    if n <= options.peers:
        adapters = [random_adapter(model, i) for i in range(n)]
        made = {"PEFT Arrow": peft_arrow, "mttl-style Arrow": mttl_arrow}
        peers = {name: make(model, adapters, options.retrieve_k) for name, make in made.items()}
    works: Mapping[str, Callable[[LlamaForCausalLM], Forward]] = {
        "decode": lambda of: _decoding(of, 1, options.tokens),
        "prefill": lambda of: _reading(of, options.prompt),
        "batch of 8, one plan": lambda of: _decoding(of, 8, options.tokens),
        "batch of 8, eight plans": lambda of: _decoding(of, 8, options.tokens),
    }
    base, lag = Plan.from_mode("base"), Plan.from_mode("lag", retrieve_k=options.retrieve_k)
    ks = range(max(1, options.retrieve_k - 4), max(1, options.retrieve_k - 4) + 8)
    eight = [Plan.from_mode("lag", retrieve_k=k) for k in ks]
    with _installed(model, n, options) as active:
        for work in options.work:
            run = works[work](model)
            plans = eight if work.endswith("eight plans") else [lag]
            variants = {"base": active([base], run), "lag": active(plans, run)}
            if work in ("decode", "prefill"):
                variants |= {name: works[work](peer) for name, peer in peers.items()}
            yield from _rows(n, work, _times(variants, options.rounds), options)


@contextmanager
def _installed(
    model: LlamaForCausalLM, n: int, options: Namespace
) -> Iterator[Callable[[Sequence[Plan], Forward], Forward]]:
    """Routes the model over n random adapters; yields what runs a forward pass under plans."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "library"
        with AdapterLibrary.create(path, base_model=model, dtype=options.store) as library:
            library.add_many(random_sources(model, n), progress=False)
            with install(model, AdapterBank(library)) as surgery:

                def active(plans: Sequence[Plan], run: Forward) -> Forward:
                    def answer() -> float:
                        with surgery.activate(plans):
                            return run()

                    return answer

                yield active


def _decoding(model: LlamaForCausalLM, n_rows: int, n_steps: int) -> Forward:
    @torch.inference_mode()
    def run() -> float:
        vocabulary = model.config.vocab_size
        cache = DynamicCache()
        model(torch.randint(vocabulary, (n_rows, CONTEXT)), past_key_values=cache, use_cache=True)
        steps = [torch.randint(vocabulary, (n_rows, 1)) for _ in range(n_steps)]
        return statistics.median(
            [_seconds(lambda: model(ids, past_key_values=cache)) for ids in steps]  # noqa: B023
        )

    return run


def _reading(model: LlamaForCausalLM, n_tokens: int) -> Forward:
    @torch.inference_mode()
    def run() -> float:
        ids = torch.randint(model.config.vocab_size, (1, n_tokens))
        return _seconds(lambda: model(ids, use_cache=True, logits_to_keep=1))

    return run


def _seconds(work: Callable[[], object]) -> float:
    before = time.thread_time()
    work()
    return time.thread_time() - before


def _times(variants: Mapping[str, Forward], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each variant, in turns, after one that is not counted."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    for round_index in range(rounds + 1):
        for name, run in variants.items():
            took = 1e3 * run()
            if round_index:
                times[name].append(took)
    return times


def _rows(
    n: int, work: str, times: Mapping[str, list[float]], options: Namespace
) -> Iterator[dict[str, Any]]:
    for variant, values in times.items():
        yield {
            "adapters": n,
            "dtype": options.dtype,
            "work": work,
            "variant": variant,
            "ms": Spread.of(values),
            "ratio": compared(values, times["base"]),
            "target": _target(n, work, options) if variant == "lag" else None,
        }


def _target(n: int, work: str, options: Namespace) -> float | None:
    if n != TARGET_ADAPTERS or options.shape != TARGET_SHAPE or options.store != "bfloat16":
        return None
    found = [t.ratio for t in TARGETS if (t.work, t.dtype) == (work, options.dtype)]
    return found[0] if found else None


def _growth(rows: Sequence[dict[str, Any]], work: str) -> float:
    """How the milliseconds that lag adds grow with the number of adapters."""
    here = [row for row in rows if row["work"] == work]
    added = [row["ms"].median * (1 - 1 / row["ratio"].median) for row in here]
    return growth_exponent([row["adapters"] for row in here], added)


def _growth_text(growth: Mapping[str, float]) -> str:
    parts = [f"{work} {value:.2f}" for work, value in growth.items() if value == value]
    return "Exponent of the time that lag adds, in N: " + (", ".join(parts) or "unknown")


def _table(rows: Sequence[dict[str, Any]], options: Namespace) -> Table:
    table = Table(
        title=f"shape {options.shape} {options.dtype}, library {options.store}, rank {RANK} on "
        f"q,k,v,o, K = {options.retrieve_k}; median (quartiles) of {options.rounds} rounds"
    )
    for heading in ("adapters", "work", "variant", "ms", "x base", "target", ""):
        table.add_column(heading, justify="left" if heading in ("work", "variant") else "right")
    for row in rows:
        target = row["target"]
        reached = "" if target is None else "met" if row["ratio"].median <= target else "missed"
        cells = [row["ms"].text(1), row["ratio"].text(2), "" if target is None else f"{target:.2f}"]
        table.add_row(str(row["adapters"]), row["work"], row["variant"], *cells, reached)
    return table


def _options(argv: Sequence[str] | None) -> Namespace:
    arguments = parser(__doc__, adapters=(64, 1000))
    arguments.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    arguments.add_argument("--work", type=lambda text: text.split(","), default=_works())
    arguments.add_argument("--retrieve-k", type=int, default=20, metavar="K")
    arguments.add_argument("--prompt", type=int, default=256, metavar="TOKENS")
    arguments.add_argument("--tokens", type=int, default=8, help="decode steps of a round")
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--peers", type=int, default=0, metavar="N", help="time them up to N")
    arguments.add_argument("--quick", action="store_true", help="toy sizes, to see that it runs")
    options = arguments.parse_args(argv)
    if options.quick:
        options.shape, options.adapters, options.rounds = "toy", [3], 2
        options.prompt, options.tokens, options.peers = 12, 2, 3
    return options


def _works() -> list[str]:
    return list(dict.fromkeys(target.work for target in TARGETS))


if __name__ == "__main__":
    main(sys.argv[1:])
