"""Decode steps under routing on a GPU: Triton kernels, plain PyTorch, the base, and the floor.

A step is one token without a context, for one or several rows of a batch. Variants take turns
within one process; times are the device's own, between two events. The floor is the time in which
the device's memory gives what a step must read: the weights, every arrow vector, the candidates' A*
and the chosen B*. `gpu_resources.py` needs no GPU.
"""

from __future__ import annotations

import statistics
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from common import (
    Spread,
    build_model,
    compared,
    count,
    counts,
    open_report,
    parsed,
    parser,
    whole,
    write_json,
)
from libraries import MODULES, Part, Recipe, opened
from rich.table import Table
from transformers import LlamaForCausalLM

from lag_engine import Plan
from lag_engine.model.bank import AdapterBank
from lag_engine.model.kernels.gpu.form import TRITON
from lag_engine.model.linear import RoutedLinear
from lag_engine.model.surgery import Surgery, install
from lag_engine.routing import GROUPED

RANK = 8
COPIED_BYTES = 1 << 30
"""Of a copy within the device's memory, which tells its speed."""

Step = Callable[[], object]


def main(argv: Sequence[str] | None = None, *, device: str = "cuda") -> dict[str, Any]:
    """Runs the program and returns what it prints.

    Args:
        argv: its arguments.
        device: another one than a GPU serves only to try the program.
    """
    options = _options(argv)
    if device == "cuda" and not torch.cuda.is_available():
        sys.exit(
            "Expected a GPU to time the kernels on. Found no CUDA device here. "
            "Run this program where there is one; gpu_resources.py compiles the kernels without."
        )
    facts, console = open_report()
    facts["device"] = torch.cuda.get_device_name() if device == "cuda" else device
    bandwidth = bytes_per_second(device)
    console.print(f"{facts['device']}, {bandwidth / 1e9:.0f} GB/s")
    model = build_model(options.shape, options.dtype).to(device)
    rows = list(_measure(model, bandwidth, options))
    console.print(_table(rows, options))
    report = {
        "program": "bench_gpu",
        "machine": facts,
        "bytes_per_second": bandwidth,
        "settings": vars(options),
        "results": rows,
    }
    write_json(options.json, report)
    return report


def floor_bytes(model: LlamaForCausalLM, part: Part, n: int, *, k: int, batch: int) -> int:
    """Returns the bytes that a step reads at least; all rows of a batch choose differently."""
    weights = sum(weight.nbytes for weight in model.parameters())
    embeddings = model.get_input_embeddings().weight
    total = weights - embeddings.nbytes + batch * embeddings[0].nbytes
    for name, shape in part.modules().items():
        stack = part.stack(name)
        rank, element = stack.singular.shape[1], stack.arrow.element_size()
        candidates, chosen = min(batch * k, n), min(batch, n)
        numbers = (n + candidates * rank) * shape.d_in + chosen * rank * shape.d_out
        total += numbers * element
    return total


def bytes_per_second(device: str) -> float:
    """Returns how fast the device's memory is read or written, from a copy within it."""
    n_bytes = COPIED_BYTES if device == "cuda" else 1 << 20
    source = torch.zeros(n_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    times = milliseconds(lambda: target.copy_(source), 9, device)
    return 2 * n_bytes / (1e-3 * statistics.median(times))


def milliseconds(step: Step, rounds: int, device: str) -> list[float]:
    """Returns how long each of several steps took, after one that is not counted."""
    step()
    return [_event_ms(step) if device == "cuda" else _clock_ms(step) for _ in range(rounds)]


def captured(step: Step) -> Step:
    """Returns the step as one CUDA graph, which launches all its kernels at once."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):  # kernels are compiled and memory is found before the capture
            step()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def _measure(
    model: LlamaForCausalLM, bandwidth: float, options: Namespace
) -> Iterator[dict[str, Any]]:
    recipe = Recipe(
        options.shape, max(options.adapters), RANK, options.modules, options.layers, options.store
    )
    with opened(recipe, None) as library:
        for n in options.adapters:
            part = Part(library, recipe, n)
            with install(model, AdapterBank(part)) as surgery:
                for batch in options.batch:
                    k = min(options.retrieve_k, n)
                    read = floor_bytes(model, part, n, k=k, batch=batch)
                    about = {"adapters": n, "batch": batch, "floor_ms": 1e3 * read / bandwidth}
                    times = _times(_steps(model, surgery, batch, k, options), model, options)
                    yield from _rows(times, about)


def _steps(
    model: LlamaForCausalLM, surgery: Surgery, batch: int, k: int, options: Namespace
) -> dict[str, Step]:
    device = model.device
    ids = torch.randint(model.config.vocab_size, (batch, 1), device=device)
    routed = [module for module in model.modules() if isinstance(module, RoutedLinear)]

    @torch.inference_mode()
    def step(mode: str, form: Any) -> None:
        for module in routed:
            module.form = form
        with surgery.activate([Plan.from_mode(mode, retrieve_k=k)]):
            model(ids, use_cache=False, logits_to_keep=1)

    steps: dict[str, Step] = {
        "base": lambda: step("base", GROUPED),
        "torch": lambda: step("lag", GROUPED),
        "triton": lambda: step("lag", TRITON),
    }
    if options.captured:
        # PyTorch's form asks the device for numbers, which a graph cannot hold.
        steps |= {f"{name}, captured": captured(steps[name]) for name in ("base", "triton")}
    return steps


def _times(
    steps: dict[str, Step], model: LlamaForCausalLM, options: Namespace
) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(options.rounds):
        for name, step in steps.items():
            found = milliseconds(step, options.steps, model.device.type)
            times[name].append(statistics.median(found))
    return times


def _rows(times: dict[str, list[float]], about: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for variant, values in times.items():
        base = times["base, captured" if variant.endswith("captured") else "base"]
        spread = Spread.of(values)
        yield {
            **about,
            "variant": variant,
            "ms": spread,
            "ratio": compared(values, base),
            "times_floor": spread.median / about["floor_ms"],
        }


def _event_ms(step: Step) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    step()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def _clock_ms(step: Step) -> float:
    before = time.perf_counter()
    step()
    return 1e3 * (time.perf_counter() - before)


def _table(rows: Sequence[dict[str, Any]], options: Namespace) -> Table:
    table = Table(
        title=f"shape {options.shape} {options.dtype}, library {options.store} on "
        f"{options.modules} linears, K = {options.retrieve_k}; median (quartiles) of "
        f"{options.rounds} rounds; the floor is that of routing, captured ratios are to the "
        "captured base"
    )
    for heading in ("N", "batch", "variant", "ms", "x base", "floor ms", "x floor"):
        table.add_column(heading, justify="left" if heading == "variant" else "right")
    for row in rows:
        cells = [str(row[key]) for key in ("adapters", "batch", "variant")]
        cells += [row["ms"].text(3), row["ratio"].text(2)]
        cells += [f"{row['floor_ms']:.3f}", f"{row['times_floor']:.2f}"]
        table.add_row(*cells)
    return table


def _options(argv: Sequence[str] | None) -> Namespace:
    arguments = parser(__doc__, adapters=(64, 1000))
    arguments.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    arguments.add_argument("--modules", choices=MODULES, default="attention")
    arguments.add_argument("--layers", type=whole, default=0, help="with own factors; 0 for all")
    arguments.add_argument("--retrieve-k", type=count, default=20, metavar="K")
    arguments.add_argument("--batch", type=counts, default=[1, 8], metavar="B,B,...")
    arguments.add_argument("--steps", type=count, default=20, help="of a round")
    arguments.add_argument("--rounds", type=count, default=5)
    arguments.add_argument("--captured", action="store_true", help="also as CUDA graphs")
    return parsed(arguments, argv, shape="small", adapters=[8, 64, 512], rounds=3)


if __name__ == "__main__":
    main(sys.argv[1:])
