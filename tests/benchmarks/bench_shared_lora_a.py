"""Adapters that share one lora_A against adapters that do not: bytes, and routing under `norm`.

Both libraries are random and equal in all but lora_A. `lag` retrieves and reranks; `spectr` scores
every adapter exactly. With --layers, fewer layers than the model's have factors of their own, and
the others use them over again.
"""

from __future__ import annotations

import statistics
import sys
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from common import (
    SHAPES,
    Spread,
    build_model,
    compared,
    count,
    growth_exponent,
    one_thread,
    open_report,
    parsed,
    parser,
    whole,
    write_json,
)
from libraries import Part, Recipe, in_layer, layer_of, opened
from rich.table import Table
from transformers import LlamaForCausalLM
from works import WORKS, Variant, in_turns, work_of, works

from lag_engine import PeftAdapter, Plan
from lag_engine.adapters import ModuleStack
from lag_engine.model.bank import AdapterBank
from lag_engine.model.kernels import kernel_status
from lag_engine.model.surgery import install

RETRIEVE_K = 20
PLANS = {
    "lag": Plan.from_mode("lag", retrieve_k=RETRIEVE_K, score="norm"),
    "spectr": Plan.from_mode("spectr", score="norm"),
}
VARIANTS = (("own", "lag"), ("shared", "lag"), ("shared", "spectr"))
"""Which lora_A, and which router."""


class SharedRecipe(Recipe):
    """The same library, but every adapter has the lora_A of the first."""

    @property
    def name(self) -> str:
        """The name of its folder among kept libraries."""
        return f"{super().name}-shared"

    def adapter(self, model: LlamaForCausalLM, seed: int) -> PeftAdapter:
        """Returns one random LoRA."""
        first, own = super().adapter(model, 0).modules, super().adapter(model, seed).modules
        return PeftAdapter({m: part._replace(lora_A=first[m].lora_A) for m, part in own.items()})


class Whole(Part):
    """A whole library over all layers of a model."""

    def stack(self, module: str, kind: str = "task") -> ModuleStack:  # type: ignore[override]
        """Returns a module's adapters, with what they share."""
        stored = in_layer(module, layer_of(module) % self._recipe.own_layers)
        return self._library.stack(stored, kind)  # type: ignore[arg-type]


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Runs the program and returns what it prints."""
    options = _options(argv)
    with one_thread():
        facts, console = open_report()
        console.print(f"routed updates: {kernel_status().reason}", soft_wrap=True)
        model = build_model(options.shape, options.dtype)
        rows = [row for n in options.adapters for row in _measure(model, n, options)]
    console.print(_table(rows, options))
    growth = _growths(rows)
    console.print(f"Exponent of the added time in N: {growth}")
    report = {
        "program": "bench_shared_lora_a",
        "machine": facts,
        "settings": {**SHAPES[options.shape], **vars(options)},
        "results": rows,
        "growth_exponents": growth,
    }
    write_json(options.json, report)
    return report


def _measure(model: LlamaForCausalLM, n: int, options: Namespace) -> Iterator[dict[str, Any]]:
    """Times base and variants in turns over both libraries of n adapters."""
    own = Recipe(options.shape, n, layers=options.layers, store=options.store)
    with ExitStack() as held:
        parts = {
            lora_a: Whole(held.enter_context(opened(recipe, options.library_cache)), recipe, n)
            for lora_a, recipe in (("own", own), ("shared", SharedRecipe(*own)))
        }
        n_bytes = {lora_a: _bytes_of(part, own) for lora_a, part in parts.items()}
        for part in parts.values():
            part.touch()
        for work in options.work:
            times = in_turns(_variants(model, parts, work, options))
            for name, values in times.items():
                lora_a, _, router = name.partition(" ")
                yield {
                    "adapters": n,
                    "work": work,
                    "lora_A": lora_a,
                    "router": router,
                    "bytes_per_adapter": n_bytes.get(lora_a),
                    "ms": Spread.of(values),
                    "ratio": compared(values, times["-"]),
                    "added_ms": statistics.median(values) - statistics.median(times["-"]),
                }


def _variants(
    model: LlamaForCausalLM, parts: Mapping[str, Whole], work: str, options: Namespace
) -> dict[str, Variant]:
    run = work_of(work, prompt=options.prompt, steps=options.tokens)
    banks = {lora_a: AdapterBank(part) for lora_a, part in parts.items()}

    def under(lora_a: str, router: str) -> float:
        with install(model, banks[lora_a]) as surgery, surgery.activate([PLANS[router]]):
            return run(model)

    found = {"-": Variant(lambda: run(model), options.rounds)}
    for lora_a, router in VARIANTS:
        found[f"{lora_a} {router}"] = Variant(partial(under, lora_a, router), options.rounds)
    return found


def _bytes_of(part: Whole, recipe: Recipe) -> float:
    """Bytes of one adapter over all layers."""
    infos = part.list("task")
    layers = SHAPES[recipe.shape]["layers"] / recipe.own_layers
    return layers * sum(info.n_bytes for info in infos) / len(infos)


def _growths(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """How the added milliseconds grow with the number of adapters."""
    found = {}
    for key in dict.fromkeys((row["work"], row["lora_A"], row["router"]) for row in rows):
        here = [r for r in rows if (r["work"], r["lora_A"], r["router"]) == key]
        exponent = growth_exponent([r["adapters"] for r in here], [r["added_ms"] for r in here])
        if exponent == exponent:
            found[", ".join(key)] = round(exponent, 2)
    return found


def _table(rows: Sequence[Mapping[str, Any]], options: Namespace) -> Table:
    table = Table(
        title=f"shape {options.shape} {options.dtype}, library {options.store}, score norm, "
        f"lag retrieves {RETRIEVE_K}; median (quartiles) of {options.rounds} rounds"
    )
    for heading in ("N", "work", "lora_A", "router", "KB/adapter", "ms", "x base", "added ms"):
        left = heading in ("work", "lora_A", "router")
        table.add_column(heading, justify="left" if left else "right")
    for row in rows:
        n_bytes = row["bytes_per_adapter"]
        table.add_row(
            *(str(row[key]) for key in ("adapters", "work", "lora_A", "router")),
            f"{n_bytes / 1e3:.1f}" if n_bytes else "",
            row["ms"].text(1),
            row["ratio"].text(2),
            f"{row['added_ms']:.1f}",
        )
    return table


def _options(argv: Sequence[str] | None) -> Namespace:
    arguments = parser(__doc__, adapters=(1000, 10_000))
    arguments.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    arguments.add_argument("--layers", type=whole, default=1, help="with own factors; 0 for all")
    known = WORKS[:3]  # every request has the one plan
    arguments.add_argument(
        "--work", type=partial(works, known=known), default=list(known[:2]), metavar="WORK+WORK+..."
    )
    arguments.add_argument("--prompt", type=count, default=256, metavar="TOKENS")
    arguments.add_argument("--tokens", type=count, default=8, help="decode steps of a round")
    arguments.add_argument("--rounds", type=count, default=5)
    arguments.add_argument("--library-cache", type=Path, metavar="DIR", help="keep libraries here")
    return parsed(arguments, argv, shape="small", adapters=[100, 1000], rounds=3)


if __name__ == "__main__":
    main(sys.argv[1:])
