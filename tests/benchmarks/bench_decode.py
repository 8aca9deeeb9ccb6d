"""What routing costs: decode and prefill under `lag`, against the same model on plan `base`.

The adapters are random: no two agree on a direction, so tokens share few of them. Real libraries
should be cheaper in prefill. PEFT's Arrow (`--peft`) is timed as a cost only: it mixes the outputs
of its top adapters, where LAG applies the best one. Its arrow vectors are made in an answer that is
not counted.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from common import (
    RANK,
    SHAPES,
    TARGETS,
    Spread,
    Times,
    Variant,
    build_model,
    build_tokenizer,
    compared,
    growth_exponent,
    growth_text,
    interleaved,
    one_thread,
    open_report,
    parser,
    random_adapter,
    random_sources,
    same_weights,
    write_json,
)
from rich.table import Table
from transformers import LlamaForCausalLM

from lag_engine import AdapterLibrary, LAGEngine, Plan, write_peft

DEFAULT_ADAPTERS = (10, 100, 1000)
PEFT_LIMIT = 64
"""Loading into PEFT takes time quadratic in the number of adapters."""


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Runs the program and returns what it prints."""
    options = _options(argv)
    with one_thread():
        facts, console = open_report()
        results = [result for n in options.adapters for result in measure(n, options)]
    exponents = {part: _added_growth(results, part) for part in ("decode", "prefill")}
    console.print(_table(results, options))
    console.print(growth_text("The time that lag adds", **exponents))
    settings = {"rank": RANK, "targets": TARGETS, **SHAPES[options.shape], **vars(options)}
    report = {
        "program": "bench_decode",
        "machine": facts,
        "settings": settings,
        "results": results,
        "growth_exponents": exponents,
    }
    write_json(options.json, report)
    return report


def measure(n: int, options: Namespace) -> list[dict[str, Any]]:
    """Times every variant over n adapters; one row for each."""
    model = build_model(options.shape, options.dtype)
    vocabulary = SHAPES[options.shape]["vocabulary"]
    generator = torch.Generator().manual_seed(1)
    prompt = torch.randint(1, vocabulary, (options.prompt,), generator=generator).tolist()
    with tempfile.TemporaryDirectory() as folder:
        peer = _peft_arrow(model, n, Path(folder), options, prompt) if n <= options.peft else {}
        with _engine(model, n, Path(folder), options) as engine:
            plans = {
                "base": Plan.from_mode("base"),
                "lag": Plan.from_mode("lag", retrieve_k=options.retrieve_k),
            }
            routed = {
                name: _answering(engine, plan, prompt, options.tokens)
                for name, plan in plans.items()
            }
            times = interleaved({**routed, **peer}, options.rounds)
    return [_row(n, name, times[name], times["base"]) for name in times]


@contextmanager
def _engine(
    model: LlamaForCausalLM, n: int, folder: Path, options: Namespace
) -> Iterator[LAGEngine]:
    """An engine over a library of n random adapters."""
    path = folder / "library"
    with AdapterLibrary.create(path, base_model=model, dtype=options.store) as library:
        library.add_many(random_sources(model, n), progress=False)
    tokenizer = build_tokenizer(SHAPES[options.shape]["vocabulary"])
    with LAGEngine(model, tokenizer, path) as engine:
        yield engine


def _answering(engine: LAGEngine, plan: Plan, prompt: Sequence[int], n_tokens: int) -> Variant:
    def answer() -> None:
        engine.generate(list(prompt), plan=plan, max_new_tokens=n_tokens + 1)

    return Variant(engine.model, answer)


def _peft_arrow(
    model: LlamaForCausalLM, n: int, folder: Path, options: Namespace, prompt: Sequence[int]
) -> dict[str, Variant]:
    """PEFT's Arrow over the same adapters and weights."""
    from peft import ArrowConfig, create_arrow_model

    paths = [str(folder / f"adapter-{i}") for i in range(n)]
    for i, path in enumerate(paths):
        write_peft(path, random_adapter(model, i))
    inner = same_weights(model)
    arrow = create_arrow_model(inner, paths, ArrowConfig(top_k=min(options.retrieve_k, n))).eval()
    ids = torch.tensor([prompt])

    @torch.inference_mode()
    def answer() -> None:
        arrow.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=options.tokens + 1,
            do_sample=False,
        )

    return {"peft": Variant(inner, answer)}


def _row(n: int, variant: str, times: Times, base: Times) -> dict[str, Any]:
    return {
        "adapters": n,
        "variant": variant,
        "decode_ms": Spread.of([step for steps in times.decode for step in steps]),
        "decode_ratio": compared(times.decode_medians, base.decode_medians),
        "prefill_ms": Spread.of(times.prefill),
        "prefill_ratio": compared(times.prefill, base.prefill),
    }


def _added_growth(results: Sequence[dict[str, Any]], part: str) -> float:
    """How the milliseconds that lag adds grow with the number of adapters."""
    cost = {(row["adapters"], row["variant"]): row[f"{part}_ms"].median for row in results}
    sizes = sorted({n for n, _ in cost})
    base = statistics.median(cost[n, "base"] for n in sizes)
    added = [(cost[n, "lag"] / cost[n, "base"] - 1) * base for n in sizes]
    return growth_exponent(sizes, added)


def _table(results: Sequence[dict[str, Any]], options: Namespace) -> Table:
    table = Table(
        title=f"shape {options.shape} {options.dtype}, library {options.store}, rank {RANK} on "
        f"{', '.join(name[0] for name in TARGETS)}, K = {options.retrieve_k}; "
        f"median (quartiles) of {options.rounds} rounds"
    )
    table.add_column("adapters", justify="right")
    table.add_column("variant")
    for heading in ("decode ms/token", "x base", f"prefill {options.prompt} ms", "x base"):
        table.add_column(heading, justify="right")
    for row in results:
        spreads = [row[key] for key in ("decode_ms", "decode_ratio", "prefill_ms", "prefill_ratio")]
        digits = (2, 2, 0, 2)
        cells = [s.text(d) for s, d in zip(spreads, digits, strict=True)]
        table.add_row(str(row["adapters"]), row["variant"], *cells)
    return table


def _options(argv: Sequence[str] | None) -> Namespace:
    arguments = parser(__doc__, adapters=DEFAULT_ADAPTERS)
    arguments.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="float32", help="of the model"
    )
    arguments.add_argument("--retrieve-k", type=int, default=20, metavar="K")
    arguments.add_argument("--prompt", type=int, default=256, metavar="TOKENS")
    arguments.add_argument("--tokens", type=int, default=16, help="decode steps of a round")
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument(
        "--peft",
        type=int,
        nargs="?",
        const=PEFT_LIMIT,
        default=0,
        metavar="N",
        help=f"also time PEFT's Arrow, up to N adapters ({PEFT_LIMIT})",
    )
    return arguments.parse_args(argv)


if __name__ == "__main__":
    main(sys.argv[1:])
