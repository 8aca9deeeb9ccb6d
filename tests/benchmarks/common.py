"""What the benchmark programs share: random worlds, interleaved timing, and the report's frame.

Time is CPU time of the thread that computes, with one compute thread, so that a busy machine
changes it little. With several it is wall time, which only a machine with nothing else to do tells
truly. Variants take turns within one process and are compared by ratios of medians.
"""

from __future__ import annotations

import copy
import json
import logging
import math
import os
import platform
import shlex
import statistics
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from transformers import LlamaConfig, LlamaForCausalLM

SHAPES: dict[str, dict[str, int]] = {
    "toy": {"hidden": 32, "intermediate": 48, "layers": 2, "heads": 4, "vocabulary": 64},
    "small": {"hidden": 256, "intermediate": 704, "layers": 4, "heads": 4, "vocabulary": 8192},
    "S": {"hidden": 1024, "intermediate": 2816, "layers": 8, "heads": 16, "vocabulary": 32000},
    "B": {
        "hidden": 2048,
        "intermediate": 5632,
        "layers": 22,
        "heads": 32,
        "kv_heads": 4,
        "vocabulary": 32000,
    },
}
"""Llama shapes: `S` has 168M parameters, `B` is TinyLlama's."""

CONSOLE_WIDTH = 120
PACKAGES = ("lag-integrations", "torch", "transformers", "peft")

logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
"""As peft imports it, it warns of a package for four bits, which nothing here needs."""


@dataclass(frozen=True)
class Spread:
    """A median with its quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)

    def text(self, digits: int = 2) -> str:
        return f"{self.median:.{digits}f} ({self.low:.{digits}f}-{self.high:.{digits}f})"


def compared(values: Sequence[float], base: Sequence[float]) -> Spread:
    """Ratio of the medians, with the quartiles of the ratios of the rounds that both ran."""
    rounds = Spread.of([value / other for value, other in zip(values, base, strict=False)])
    ratio = statistics.median(values) / statistics.median(base)
    return Spread(ratio, min(rounds.low, ratio), max(rounds.high, ratio))


def growth_exponent(sizes: Sequence[int], costs: Sequence[float]) -> float:
    """The slope of log cost over log size; NaN where fewer than two costs are above zero."""
    points = [(math.log(n), math.log(c)) for n, c in zip(sizes, costs, strict=True) if c > 0]
    if len({x for x, _ in points}) < 2:
        return math.nan
    return statistics.linear_regression(*zip(*points, strict=True)).slope


def build_model(shape: str, dtype: str = "float32", *, device: str = "cpu") -> LlamaForCausalLM:
    """A Llama of one of the `SHAPES`, with random weights and no token that ends an answer.

    On the device "meta" it has widths only.
    """
    widths = SHAPES[shape]
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=widths["vocabulary"],
        hidden_size=widths["hidden"],
        intermediate_size=widths["intermediate"],
        num_hidden_layers=widths["layers"],
        num_attention_heads=widths["heads"],
        num_key_value_heads=widths.get("kv_heads", widths["heads"]),
        max_position_embeddings=2048,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    with torch.device(device):
        model: LlamaForCausalLM = LlamaForCausalLM(config).to(getattr(torch, dtype)).eval()
    return model


def same_weights(model: LlamaForCausalLM) -> LlamaForCausalLM:
    """A second model over the very same weights, for a peer that changes modules in place."""
    return copy.deepcopy(model, {id(weight): weight for weight in model.parameters()})


@contextmanager
def compute_threads(count: int) -> Iterator[None]:
    """So many compute threads for torch, and as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def one_thread() -> AbstractContextManager[None]:
    """One compute thread for torch, and as many as before afterwards."""
    return compute_threads(1)


def parser(description: str | None, *, adapters: Sequence[int] = ()) -> ArgumentParser:
    """The arguments that all programs take; with `adapters`, also those over random libraries."""
    arguments = ArgumentParser(description=(description or "").splitlines()[0])
    if adapters:
        arguments.add_argument("--shape", choices=SHAPES, default="S", help="of the model")
        arguments.add_argument("--adapters", type=counts, default=list(adapters), metavar="N,N,...")
        arguments.add_argument(
            "--store", choices=("float32", "bfloat16"), default="bfloat16", help="of the library"
        )
    arguments.add_argument("--quick", action="store_true", help="small sizes where none are given")
    arguments.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers here")
    return arguments


def parsed(arguments: ArgumentParser, argv: Sequence[str] | None, **quick: Any) -> Namespace:
    """Returns the options; --quick gives other defaults, and what is given stays."""
    options = arguments.parse_args(argv)
    if options.quick:
        arguments.set_defaults(**quick)
        options = arguments.parse_args(argv)
    if "layers" in options and options.layers > (most := SHAPES[options.shape]["layers"]):
        found = f"shape {options.shape} has {most}; found {options.layers}"
        arguments.error(f"argument --layers: expected no more than the model has; {found}")
    return options


def machine() -> dict[str, Any]:
    """The machine, how busy it is, and the versions."""
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "load": [round(load, 1) for load in os.getloadavg()],
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
    }


def open_report() -> tuple[dict[str, Any], Console]:
    """Prints the machine in two lines; returns its facts and where the rest is printed."""
    facts, console = machine(), Console(width=CONSOLE_WIDTH, highlight=False)
    versions = " ".join(f"{name} {facts[name]}" for name in ("python", *PACKAGES))
    load = "/".join(map(str, facts["load"]))
    console.print(
        f"{facts['cpu']}, {facts['cores']} cores, load {load}, {facts['threads']} compute "
        f"thread{'s' * (facts['threads'] > 1)}\n"
        f"{facts['system']}; {versions}",
        soft_wrap=True,
    )
    return facts, console


def write_json(path: Path | None, report: Mapping[str, Any]) -> None:
    """Writes a report where a file was asked for; dataclasses become objects, NaN null."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        full = {**report, "command": command_line()}
        path.write_text(json.dumps(_plain(full), indent=1, allow_nan=False) + "\n")


def command_line() -> str:
    """How this program was called, without the options that say where files lie."""
    program, *words = sys.argv
    for option in ("--json", "--library-cache"):
        if option in words:
            at = words.index(option)
            del words[at : at + 2]
    return shlex.join(["python", f"tests/benchmarks/{Path(program).name}", *words])


def counts(text: str) -> list[int]:
    """Reads whole numbers above zero from `1,2,3`; in ascending order, each once."""
    expected = "whole numbers above zero, such as 8,64"
    return sorted({_number(part, 1, expected) for part in text.split(",")})


def count(text: str) -> int:
    """Reads a whole number above zero."""
    return _number(text, 1, "a whole number above zero, such as 8")


def whole(text: str) -> int:
    """Reads a whole number; zero is one."""
    return _number(text, 0, "a whole number, such as 8, or 0")


def _number(text: str, least: int, expected: str) -> int:
    if not text.strip().isdecimal() or int(text) < least:
        raise ArgumentTypeError(f"expected {expected}; found {text!r}")
    return int(text)


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown CPU"


def _plain(value: Any) -> Any:
    if isinstance(value, Spread):
        return asdict(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value
