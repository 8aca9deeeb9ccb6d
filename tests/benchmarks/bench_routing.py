"""Decode and prefill under routing against the same model without it, row by row with its target.

Forward passes alone, one after another in one process, base and variants in turns. Sizes below the
largest are its first adapters. With --layers, fewer layers than the model's have factors of their
own, and the others use them over again: what a step reads of arrow vectors is the same.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from common import (
    SHAPES,
    Spread,
    build_model,
    compared,
    compute_threads,
    count,
    counts,
    growth_exponent,
    open_report,
    parsed,
    parser,
    whole,
    write_json,
)
from libraries import MODULES, Part, Recipe, opened
from mttl_peer import checkout_of, facts_of
from peers import OF_MTTL, OURS, peer_of
from plot import draw_growth
from rich.table import Table
from targets import APPROXIMATE, RANK, RETRIEVE_K, target_of
from torch import nn
from transformers import LlamaForCausalLM
from works import WORKS, Variant, in_turns, work_of, works

from lag_engine import Plan
from lag_engine.model.bank import AdapterBank
from lag_engine.model.kernels import kernel_status
from lag_engine.model.surgery import Surgery, install

SAME = ("shape", "dtype", "store", "modules")
"""Options that every result of a run shares."""

COLUMNS = {
    "N": "adapters",
    "R": "rank",
    "K": "retrieve_k",
    "T": "threads",
    "work": "work",
    "variant": "variant",
}
"""Of the printed table, and what of a result they show."""


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Runs the program and returns what it prints."""
    options = _options(argv)
    with compute_threads(max(options.threads)):
        facts, console = open_report()
        status = kernel_status()
        console.print(f"routed updates: {status.reason}", soft_wrap=True)
        model = build_model(options.shape, options.dtype)
        rows = [row for rank in options.rank for row in _measure(model, rank, options)]
    console.print(_table(rows, options))
    growth = growths(rows)
    console.print(_growth_text(growth))
    if options.plot:
        draw_growth(rows, growth, options.plot)
    report = {
        "program": "bench_routing",
        "machine": facts,
        "kernels": status.reason.split(" by ")[0],
        "mttl": facts_of(options.mttl) if options.mttl else None,
        "settings": {**SHAPES[options.shape], **vars(options)},
        "results": rows,
        "growth_exponents": growth,
    }
    write_json(options.json, report)
    return report


def growths(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """How the milliseconds that each variant adds grow with the number of adapters."""
    found = {}
    for work, variant in dict.fromkeys((row["work"], row["variant"]) for row in rows):
        here = [row for row in rows if (row["work"], row["variant"]) == (work, variant)]
        if variant != "base" and len({(row["rank"], row["threads"]) for row in here}) == 1:
            sizes = [row["adapters"] for row in here]
            found[f"{work}, {variant}"] = growth_exponent(sizes, [row["added_ms"] for row in here])
    return found


def _measure(model: LlamaForCausalLM, rank: int, options: Namespace) -> Iterator[dict[str, Any]]:
    """Times all there is to time over one library."""
    most = max(options.library, *options.adapters)
    recipe = Recipe(options.shape, most, rank, options.modules, options.layers, options.store)
    with opened(recipe, options.library_cache) as library:
        for n in options.adapters:
            part = Part(library, recipe, n)
            part.touch()
            yield from _measure_part(model, part, {"adapters": n, "rank": rank}, options)


def _measure_part(
    model: LlamaForCausalLM, part: Part, about: Mapping[str, Any], options: Namespace
) -> Iterator[dict[str, Any]]:
    n = about["adapters"]
    peers = {
        name: peer_of(name, options.mttl)(model, part, min(options.retrieve_k[0], n))
        for name in options.peer
        if n <= options.peers
    }
    with install(model, AdapterBank(part)) as surgery:
        for k in options.retrieve_k:
            for work in options.work:
                variants = _variants(model, surgery, k, work, options)
                if work in WORKS[:2]:
                    variants |= _peer_variants(peers, work, options)
                for threads in options.threads:
                    here = {**about, "retrieve_k": k, "work": work, "threads": threads}
                    with compute_threads(threads):
                        yield from _rows(in_turns(variants), here, options)


def _variants(
    model: LlamaForCausalLM, surgery: Surgery, k: int, work: str, options: Namespace
) -> dict[str, Variant]:
    run = work_of(work, prompt=options.prompt, steps=options.tokens)
    least = max(1, k - 4)
    ks = range(least, least + 8) if work.endswith("eight plans") else [k]
    plans = {
        "base": [Plan.from_mode("base")],
        "lag": [Plan.from_mode("lag", retrieve_k=each) for each in ks],
    }
    if options.approximate:
        plans[APPROXIMATE] = [
            Plan.from_mode("lag", retrieve_k=each, approximate=True) for each in ks
        ]

    def under(name: str) -> float:
        with surgery.activate(plans[name]):
            return run(model)

    return {name: Variant(lambda name=name: under(name), options.rounds) for name in plans}


def _peer_variants(
    peers: Mapping[str, nn.Module], work: str, options: Namespace
) -> dict[str, Variant]:
    run = work_of(work, prompt=options.prompt, steps=min(options.tokens, options.peer_tokens))
    rounds = min(options.rounds, options.peer_rounds)
    return {
        name: Variant(lambda peer=peer: run(peer), rounds, is_warmed=rounds > 2)
        for name, peer in peers.items()
    }


def _rows(
    times: Mapping[str, Sequence[float]], about: Mapping[str, Any], options: Namespace
) -> Iterator[dict[str, Any]]:
    base, lag = times["base"], times["lag"]
    for variant, values in times.items():
        spread, ratio = Spread.of(values), compared(values, base)
        yield {
            **{key: getattr(options, key) for key in SAME},
            "layers": options.layers or SHAPES[options.shape]["layers"],
            **about,
            "variant": variant,
            "rounds": len(values),
            "ms": spread,
            "ratio": ratio,
            "added_ms": spread.median * (1 - 1 / ratio.median),
            "faster": None if variant in ("base", "lag") else compared(values, lag),
        }


def _growth_text(growth: Mapping[str, float]) -> str:
    parts = [f"{what} {value:.2f}" for what, value in growth.items() if value == value]
    return "Exponent of the added time in N: " + ("; ".join(parts) or "unknown")


def _table(rows: Sequence[Mapping[str, Any]], options: Namespace) -> Table:
    table = Table(
        title=f"shape {options.shape} {options.dtype}, library {options.store} on "
        f"{options.modules} linears, factors of {rows[0]['layers']} layers; median (quartiles) "
        f"of {options.rounds} rounds, of peers {min(options.rounds, options.peer_rounds)}; "
        "CPU time of T = 1 thread, wall time of more"
    )
    for heading in (*COLUMNS, "ms", "x base", "slower than lag", "target"):
        left = heading in ("work", "variant")
        table.add_column(heading, justify="left" if left else "right")
    for row in rows:
        target = target_of(row)
        cells = [str(row[key]) for key in COLUMNS.values()]
        cells += [row["ms"].text(1), row["ratio"].text(2)]
        cells.append(row["faster"].text(1) if row["faster"] else "")
        reached = target and target.is_met(target.measured(row).median)
        cells.append(f"{target.text} {'met' if reached else 'missed'}" if target else "")
        table.add_row(*cells)
    return table


def _options(argv: Sequence[str] | None) -> Namespace:
    arguments = parser(__doc__, adapters=(64, 1000))
    arguments.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    arguments.add_argument("--modules", choices=MODULES, default="attention")
    arguments.add_argument("--layers", type=whole, default=0, help="with own factors; 0 for all")
    arguments.add_argument("--rank", type=counts, default=[RANK], metavar="R,R,...")
    arguments.add_argument("--retrieve-k", type=counts, default=[RETRIEVE_K], metavar="K,K,...")
    arguments.add_argument(
        "--approximate", action="store_true", help="also time plans that may miss an adapter"
    )
    arguments.add_argument("--work", type=works, default=list(WORKS), metavar="WORK+WORK+...")
    arguments.add_argument("--prompt", type=count, default=256, metavar="TOKENS")
    arguments.add_argument("--tokens", type=count, default=8, help="decode steps of a round")
    arguments.add_argument("--rounds", type=count, default=5)
    arguments.add_argument("--threads", type=counts, default=[1], metavar="T,T,...")
    arguments.add_argument("--peers", type=whole, default=0, metavar="N", help="time them up to N")
    arguments.add_argument("--peer", choices=[*OURS, *OF_MTTL], nargs="+", help="all that can run")
    arguments.add_argument("--mttl", type=checkout_of, metavar="DIR", help="a checkout, to run it")
    arguments.add_argument("--peer-rounds", type=count, default=5, help="not warmed below 3")
    arguments.add_argument("--peer-tokens", type=count, default=8, help="decode steps of a round")
    arguments.add_argument("--library", type=whole, default=0, metavar="N", help="make so many")
    arguments.add_argument("--library-cache", type=Path, metavar="DIR", help="keep libraries here")
    arguments.add_argument("--plot", type=Path, metavar="PNG", help="draw the growth with N")
    options = parsed(
        arguments, argv, shape="small", adapters=[8, 64, 512], rounds=3, prompt=64, peers=64
    )
    options.peer = options.peer or [*OURS, *(OF_MTTL if options.mttl else ())]
    if options.mttl is None and OF_MTTL.keys() & set(options.peer):
        arguments.error("to run mttl, clone github.com/microsoft/mttl and give its folder: --mttl")
    if options.plot and len(options.threads) > 1:
        arguments.error("a plot shows one number of threads: give --threads one, or no --plot")
    return options


if __name__ == "__main__":
    main(sys.argv[1:])
