"""Passages a second: stacked training of many adapters against PEFT, one passage after another.

Both train lag-tiny on the same sequences from the same starts, with the optimiser and the order of
the paper's code; rounds of all variants take turns in one process. Afterwards the adapters are
compared: the largest ‖ours - PEFT's‖ / ‖PEFT's‖ over modules and passages, of the dense updates.
"""

from __future__ import annotations

import sys
import time
import warnings
from argparse import Namespace
from collections.abc import Callable, Sequence
from typing import Any

import torch
from common import Spread, count, counts, one_thread, open_report, parsed, parser, write_json
from peft import LoraConfig, get_peft_model
from rich.table import Table
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from lag_engine import PRAGSettings, tiny
from lag_engine.documents.grouping import Work, batches_of
from lag_engine.documents.sequences import SequenceBuilder
from lag_engine.documents.stacked_lora import StackedLora
from lag_engine.documents.training import train_stacked
from lag_engine.tiny.encoder_cases import other_cases

SETTINGS = PRAGSettings(learning_rate=3e-3, questions="alone")
Deltas = list[dict[str, Tensor]]


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measures, prints and returns the report."""
    options = _options(argv)
    facts, console = open_report()
    path = tiny.model_path()
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    work = _work(AutoTokenizer.from_pretrained(path), max(options.counts))
    with one_thread():
        results = _measure(model, work, options)
    table = Table("training", title="Passages a second; CPU time of one thread")
    for heading in ("per s", "x PEFT", "largest difference"):
        table.add_column(heading, justify="right")
    for row in results:
        gap = "" if row["difference"] is None else f"{row['difference']:.1e}"
        table.add_row(row["variant"], row["per_second"].text(2), row["ratio"].text(2), gap)
    console.print(table)
    report = {
        "program": "bench_encode",
        "machine": facts,
        "settings": vars(options),
        "results": results,
    }
    write_json(options.json, report)
    return report


def _measure(model: Any, work: Sequence[Work], options: Namespace) -> list[dict[str, Any]]:
    targets = SETTINGS.target_paths(model)
    alone = work[: options.peft]

    def stacked(count: int) -> Callable[[], Deltas]:
        return lambda: _stacked(model, work[:count], targets, options.epochs)

    variants = {"PEFT": lambda: [_peft(model, item, targets, options.epochs) for item in alone]}
    variants |= {f"G={count}": stacked(count) for count in options.counts}
    sizes = {"PEFT": len(alone), **{f"G={count}": count for count in options.counts}}
    rates: dict[str, list[float]] = {name: [] for name in variants}
    made: dict[str, Deltas] = {}
    for _ in range(options.rounds):
        for name, train in variants.items():
            started = time.thread_time()
            made[name] = train()
            rates[name].append(sizes[name] / (time.thread_time() - started))
    return [
        {
            "variant": name,
            "per_second": Spread.of(rates[name]),
            "ratio": Spread.of([a / b for a, b in zip(rates[name], rates["PEFT"], strict=True)]),
            "difference": None if name == "PEFT" else _difference(made[name], made["PEFT"]),
        }
        for name in variants
    ]


def _work(tokenizer: Any, count: int) -> list[Work]:
    sequences = SequenceBuilder(tokenizer, SETTINGS.style)
    passages = [case.passage for case in other_cases(count)]
    return [Work(p, sequences.of(p), seed, "") for seed, p in enumerate(passages)]


def _stacked(model: Any, work: Sequence[Work], targets: Sequence[str], epochs: int) -> Deltas:
    epoch = batches_of(work, rows=1, pad=0)
    adapters = train_stacked(
        model,
        epoch * epochs,
        count=len(work),
        steps=len(epoch) * epochs,
        targets=targets,
        options=SETTINGS.training(model, window=len(epoch)),
        seeds=[item.seed for item in work],
    )
    return [
        {name: part.scaling * part.lora_B @ part.lora_A for name, part in adapter.items()}
        for adapter in adapters
    ]


def _peft(model: Any, item: Work, targets: Sequence[str], epochs: int) -> dict[str, Tensor]:
    """The loop of the paper's code: AdamW, one sequence after another."""
    options = SETTINGS.training(model, window=1)
    starts = {n: StackedLora(model.get_submodule(n), 1, options, [item.seed]) for n in targets}
    config = LoraConfig(
        r=SETTINGS.rank,
        lora_alpha=int(SETTINGS.alpha),
        target_modules=list(targets),
        lora_dropout=0.0,
    )
    peft = get_peft_model(model, config)
    layers = {name: peft.base_model.model.get_submodule(name) for name in targets}
    with torch.no_grad():
        for name, layer in layers.items():
            layer.lora_A["default"].weight.copy_(starts[name].lora_A[0])
    trained = [p for p in peft.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=SETTINGS.learning_rate)
    for _ in range(epochs):
        for sequence in item.sequences:
            ids = torch.tensor([sequence.ids])
            optimizer.zero_grad()
            peft(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
    deltas = {name: layer.get_delta_weight("default").detach() for name, layer in layers.items()}
    peft.unload()
    return deltas


def _difference(ours: Deltas, theirs: Deltas) -> float:
    """Over the passages that both have trained."""
    return max(
        float((mine[name] - delta).norm() / delta.norm())
        for mine, adapter in zip(ours, theirs, strict=False)
        for name, delta in adapter.items()
    )


def _options(argv: Sequence[str] | None) -> Namespace:
    arguments = parser(__doc__)
    arguments.add_argument("--counts", type=counts, default=[1, 8, 32, 128], metavar="G,G,...")
    arguments.add_argument("--peft", type=count, default=4, help="passages of PEFT in a round")
    arguments.add_argument("--epochs", type=count, default=1)
    arguments.add_argument("--rounds", type=count, default=5)
    return parsed(arguments, argv, counts=[1, 8, 32], rounds=2)


if __name__ == "__main__":
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")
    main(sys.argv[1:])
