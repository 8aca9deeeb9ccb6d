"""What the benchmark programs share: random worlds, interleaved timing, and the report's frame.

Time is CPU time of the thread that computes, with one compute thread, so that a busy machine
changes it little. Variants take turns within one process and are compared by ratios of medians.
"""

from __future__ import annotations

import copy
import json
import math
import os
import platform
import statistics
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from lag_engine import PeftAdapter
from lag_engine.adapters import AdapterSource, LoraModule

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

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")
RANK = 8
SCALING = 2.0
CONSOLE_WIDTH = 100
PACKAGES = ("lag-integrations", "torch", "transformers", "peft")


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


@dataclass(frozen=True)
class Variant:
    """Something to be timed: `answer` runs `model` forward, first over a prompt, then by token."""

    model: PreTrainedModel
    answer: Callable[[], object]

    def forward_seconds(self) -> list[float]:
        """CPU seconds of each forward pass of one answer, on the thread that ran it."""
        seconds: list[float] = []
        before = self.model.register_forward_pre_hook(
            lambda *_: seconds.append(-time.thread_time())
        )
        after = self.model.register_forward_hook(lambda *_: _add_now(seconds))
        try:
            self.answer()
        finally:
            before.remove()
            after.remove()
        return seconds


@dataclass(frozen=True)
class Times:
    """Milliseconds of one variant: of each round's prefill, and of each round's decode steps."""

    prefill: list[float]
    decode: list[list[float]]

    @property
    def decode_medians(self) -> list[float]:
        return [statistics.median(steps) for steps in self.decode]


def interleaved(variants: Mapping[str, Variant], rounds: int) -> dict[str, Times]:
    """Lets the variants answer in turns, A/B/A/B, after one answer each that is not counted."""
    times = {name: Times([], []) for name in variants}
    for round_index in range(rounds + 1):
        for name, variant in variants.items():
            prefill, *decode = (1e3 * seconds for seconds in variant.forward_seconds())
            if round_index > 0:
                times[name].prefill.append(prefill)
                times[name].decode.append(decode)
    return times


def compared(values: Sequence[float], base: Sequence[float]) -> Spread:
    """Ratio of the medians, with the quartiles of the ratios of the single rounds."""
    rounds = Spread.of([value / other for value, other in zip(values, base, strict=True)])
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


def build_tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """Writes each token as its number; has no special tokens."""
    core = Tokenizer(models.WordLevel({str(i): i for i in range(vocabulary)}, unk_token="0"))
    return PreTrainedTokenizerFast(tokenizer_object=core, clean_up_tokenization_spaces=False)


def random_adapter(model: LlamaForCausalLM, seed: int) -> PeftAdapter:
    """A random LoRA of rank 8 on every q, k, v and o projection; the worst case for overlap."""
    generator = torch.Generator().manual_seed(seed)
    modules = {}
    for name, module in model.named_modules():
        if name.endswith(TARGETS):
            lora_A = torch.randn(RANK, module.in_features, generator=generator)
            lora_B = torch.randn(module.out_features, RANK, generator=generator)
            scale_in, scale_out = module.in_features**-0.5, 0.1 * RANK**-0.5
            modules[name] = LoraModule(lora_A * scale_in, lora_B * scale_out, SCALING)
    return PeftAdapter(modules)


def random_sources(model: LlamaForCausalLM, n: int) -> Iterator[AdapterSource]:
    """Random adapters named for their number; seeds do not depend on n."""
    for i in range(n):
        yield AdapterSource(random_adapter(model, i), name=f"adapter-{i}")


@contextmanager
def one_thread() -> Iterator[None]:
    """One compute thread for torch, and as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def parser(description: str | None, *, adapters: Sequence[int]) -> ArgumentParser:
    """The arguments that all programs take."""
    arguments = ArgumentParser(description=(description or "").splitlines()[0])
    arguments.add_argument("--shape", choices=SHAPES, default="small", help="of the model")
    arguments.add_argument("--adapters", type=_counts, default=list(adapters), metavar="N,N,...")
    arguments.add_argument(
        "--store", choices=("float32", "bfloat16"), default="float32", help="dtype of the library"
    )
    arguments.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers here")
    return arguments


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
        f"{facts['cpu']}, {facts['cores']} cores, load {load}, {facts['threads']} compute thread\n"
        f"{facts['system']}; {versions}",
        soft_wrap=True,
    )
    return facts, console


def growth_text(what: str, **exponents: float) -> str:
    """A sentence on how a cost grows."""
    known = [f"{value:.2f} ({part})" for part, value in exponents.items() if math.isfinite(value)]
    return f"{what} grows with the number of adapters to the power {', '.join(known) or 'unknown'}."


def write_json(path: Path | None, report: Mapping[str, Any]) -> None:
    """Writes a report where a file was asked for; dataclasses become objects, NaN null."""
    if path is not None:
        path.write_text(json.dumps(_plain(report), indent=2, allow_nan=False) + "\n")


def _add_now(seconds: list[float]) -> None:
    seconds[-1] += time.thread_time()


def _counts(text: str) -> list[int]:
    counts = sorted({int(part) for part in text.split(",")})
    if counts[0] < 1:
        raise ValueError("an adapter library of a benchmark has at least one adapter")
    return counts


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
