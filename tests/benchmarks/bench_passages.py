"""Real passages on a real model: each passage's loss under its own adapter and under another's.

Reads PopQA's rows with passages, of which the first of each row counts: the second is the answer's
own page. Passages longer than the model's context are left out, and told.
"""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from common import count, one_thread, open_report, parsed, parser, write_json
from rich.table import Table
from torch.nn.functional import cross_entropy

from lag_engine import PRAG, AdapterLibrary, LAGEngine, Passage, Plan, PRAGSettings
from lag_engine.evaluation.statistics import mean_interval

DATA = Path(__file__).parents[3] / "shared" / "data"
CASES = ("no adapter", "its own", "another's")


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measures, prints and returns the report."""
    options = _options(argv)
    facts, console = open_report()
    missing = [str(path) for path in (options.model, options.passages) if not path.exists()]
    if missing:
        console.print(f"Not run: {', '.join(missing)} is not here; --model and --passages tell.")
        return {}
    with one_thread(), TemporaryDirectory() as folder:
        library = AdapterLibrary.create(
            Path(folder) / "library", base_model=options.model, base_name=str(options.model)
        )
        with library, LAGEngine.from_pretrained(options.model, library=library) as engine:
            passages, n_long = _passages(engine, options)
            settings = PRAGSettings(learning_rate=options.rate, epochs=options.epochs)
            infos = PRAG.from_engine(engine, settings=settings, progress=False).encode(passages)
            losses = _losses(engine, passages, [info.name for info in infos])
    means = {case: mean_interval([row[case] for row in losses]) for case in CASES}
    table = Table("adapter", title=f"Nats a token, {len(passages)} passages of PopQA")
    table.add_column("loss (95 %)", justify="right")
    for case, mean in means.items():
        table.add_row(case, f"{mean.score:.3f} ({mean.low:.3f}-{mean.high:.3f})")
    console.print(table)
    won = sum(row["its own"] < row["another's"] for row in losses)
    console.print(
        f"Its own is lower than another's for {won} of {len(losses)}. {n_long} were longer "
        "than the model's context."
    )
    report = {
        "program": "bench_passages",
        "machine": facts,
        "settings": vars(options),
        "means": {case: mean._asdict() for case, mean in means.items()},
        "own_is_lower": won,
        "losses": losses,
    }
    write_json(options.json, report)
    return report


def _passages(engine: LAGEngine, options: Namespace) -> tuple[list[Passage], int]:
    """The first ones that fit the model, and how many before them did not."""
    found: list[Passage] = []
    n_long = 0
    for row in json.loads(options.passages.read_text(encoding="utf-8")):
        first = row["paragraphs"][0]
        passage = Passage(f"popqa-{row['id']}", first["text"], first["title"])
        n_tokens = len(_ids(engine, passage))
        if n_tokens + 1 > (engine.context_length or n_tokens + 1):
            n_long += 1
            continue
        found.append(passage)
        if len(found) == options.count:
            break
    return found, n_long


def _losses(
    engine: LAGEngine, passages: Sequence[Passage], names: Sequence[str]
) -> list[dict[str, float]]:
    """Each passage's mean loss on its tokens; another's adapter is that of the next passage."""
    rows = []
    for place, passage in enumerate(passages):
        other = names[(place + 1) % len(names)]
        plans: dict[str, str | Plan] = {
            "no adapter": "base",
            "its own": engine.plan("prag", adapters=[names[place]]),
            "another's": engine.plan("prag", adapters=[other]),
        }
        ids = torch.tensor([_ids(engine, passage)])
        rows.append({case: _loss(engine.logits(ids, plan=plans[case]), ids) for case in CASES})
    return rows


def _loss(logits: torch.Tensor, ids: torch.Tensor) -> float:
    return float(cross_entropy(logits[0, :-1].float(), ids[0, 1:]))


def _ids(engine: LAGEngine, passage: Passage) -> list[int]:
    return list(engine.tokenizer(passage.titled_text, verbose=False)["input_ids"])


def _options(argv: Sequence[str] | None) -> Namespace:
    arguments = parser(__doc__)
    arguments.add_argument("--model", type=Path, default=DATA / "tinystories-260k" / "hf")
    arguments.add_argument(
        "--passages", type=Path, default=DATA / "popqa" / "popqa_1000_with_passages.json"
    )
    arguments.add_argument("--count", type=count, default=64)
    arguments.add_argument("--rate", type=float, default=3e-3)
    arguments.add_argument("--epochs", type=count, default=32)
    return parsed(arguments, argv, count=8)


if __name__ == "__main__":
    main(sys.argv[1:])
