"""Whether a coarse index over arrow vectors would pay: recall of the exact winner, share read.

lag-tiny's document adapters and inputs of its own questions; then a synthetic library in which
each adapter is a mixture of two trained ones. The exact winner is what a `lag` plan of K = 20
applies. `sketch` scores all arrow vectors in the d leading directions of other inputs and rescores
the best; `lists` reads the nearest of the clusters of arrow vectors. The share read is that of the
bytes of an exact scan in the same precision; an int8 scan that is exact reads 0.25 of float32.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from common import one_thread, open_report, write_json
from rich.table import Table
from torch import Tensor

from lag_engine import AdapterLibrary, LAGEngine, tiny
from lag_engine.adapters import to_spectral_batched

K = 20
DIMENSIONS = (8, 4, 2)
"""The sketch has the width over these."""

OVERFETCH = (64, 256)
LISTS = 64
PROBES = (4, 16, 32)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Runs the program and returns what it prints."""
    options = _options(argv)
    torch.manual_seed(0)
    with one_thread():
        facts, console = open_report()
        inputs = _inputs(options.questions)
        with AdapterLibrary.open(tiny.library_path(), read_only=True) as library:
            stacks = {module: library.stack(module, "knowledge") for module in inputs}
            results = [
                {"module": module, "library": kind, "adapters": len(A), **row}
                for module, stack in list(stacks.items())[: options.modules]
                for kind, A in _libraries(stack, options.adapters)
                for row in measure(inputs[module], A)
            ]
    console.print(_table(results))
    report = {
        "program": "bench_index",
        "machine": facts,
        "settings": vars(options),
        "results": results,
    }
    write_json(options.json, report)
    return report


def measure(x: Tensor, A: Tensor) -> Iterator[dict[str, Any]]:
    """Yields each index's recall over half of the inputs (T, D); A is (N, R, D)."""
    other, x = x.chunk(2)
    arrow = A[:, 0]
    exact = (x @ arrow.T).abs()  # (T, N)
    winner = _winner(x, A, exact)
    n, d_in = arrow.shape
    directions = torch.linalg.svd(other, full_matrices=False)[2]
    for part in DIMENSIONS:
        basis = directions[: d_in // part]  # (d, D)
        coarse = ((x @ basis.T) @ (arrow @ basis.T).T).abs()
        for m in OVERFETCH:
            if m < n:
                kept = torch.zeros_like(exact, dtype=torch.bool)
                kept.scatter_(1, coarse.topk(m).indices, True)
                yield _row(f"sketch D/{part}, {m}", 1 / part + m / n, x, A, exact, kept, winner)
    lists, centres = _clusters(arrow)
    near = (x @ centres.T).abs().argsort(1, descending=True)  # (T, LISTS)
    for probes in PROBES:
        probed = torch.zeros(len(x), LISTS, dtype=torch.bool).scatter(1, near[:, :probes], True)
        kept = probed[:, lists]
        share = float(kept.float().mean()) + LISTS / n
        yield _row(f"lists {probes} of {LISTS}", share, x, A, exact, kept, winner)


def _row(
    index: str, share: float, x: Tensor, A: Tensor, exact: Tensor, kept: Tensor, winner: Tensor
) -> dict[str, Any]:
    found = _winner(x, A, exact.masked_fill(~kept, -1))
    return {"index": index, "share": share, "recall": float((found == winner).float().mean())}


def _winner(x: Tensor, A: Tensor, scores: Tensor) -> Tensor:
    """Returns the reranked best of the K best scores; (T,)."""
    rows = scores.topk(K).indices
    pairs = zip(x.split(64), rows.split(64), strict=True)
    z = torch.cat([torch.einsum("td,tkrd->tkr", some, A[at]) for some, at in pairs])
    return rows.gather(1, z.norm(dim=-1).argmax(-1, keepdim=True))[:, 0]


def _clusters(arrow: Tensor, rounds: int = 15) -> tuple[Tensor, Tensor]:
    """Spherical k-means up to sign; returns each vector's list and the centres."""
    centres = arrow[torch.randperm(len(arrow))[:LISTS]].clone()
    for _ in range(rounds):
        scores = arrow @ centres.T  # (N, LISTS)
        lists = scores.abs().argmax(1)
        signs = scores.gather(1, lists[:, None]).sign()
        sums = torch.zeros_like(centres).index_add(0, lists, arrow * signs)
        centres = torch.where(
            sums.any(1, keepdim=True), torch.nn.functional.normalize(sums), centres
        )
    return (arrow @ centres.T).abs().argmax(1), centres


def _libraries(stack: Any, n: int) -> Iterator[tuple[str, Tensor]]:
    """Yields the trained library, and mixtures of its pairs; A* is (N, R, D_in)."""
    every = torch.arange(len(stack))
    A, B = stack.A(every).float(), stack.B(every).float()
    yield "trained", A
    first, second = torch.randint(len(A), (2, n))
    share = torch.rand(n, 1, 1)
    lora_A = torch.cat([A[first] * share, A[second] * (1 - share)], dim=1)
    lora_B = torch.cat([B[first], B[second]], dim=1).mT
    mixed = to_spectral_batched(lora_A, lora_B, torch.ones(n))
    yield "mixed pairs (synthetic)", mixed.A[:, : A.shape[1]]


def _inputs(n_questions: int) -> dict[str, Tensor]:
    """Returns what each module with document adapters reads while lag-tiny answers."""
    read: dict[str, list[Tensor]] = {}
    with LAGEngine.from_pretrained("lag-tiny") as engine:
        assert engine.library is not None
        modules = engine.library.modules("knowledge")
        for name, module in engine.model.named_modules():
            if name in modules:
                module.register_forward_pre_hook(
                    lambda _, given, name=name: read.setdefault(name, []).append(given[0].detach())
                )
        questions = tiny.questions()
        for question in questions[:: max(1, len(questions) // n_questions)]:
            engine.generate(question.prompt, max_new_tokens=8)
    found = {name: torch.cat([x.reshape(-1, x.shape[-1]) for x in xs]) for name, xs in read.items()}
    return {name: x[torch.randperm(len(x))[:800]].float() for name, x in found.items()}


def _table(results: Sequence[dict[str, Any]]) -> Table:
    table = Table(title="the exact winner's recall; target 0.999")
    for heading in ("module", "library", "adapters", "index", "share read", "recall"):
        table.add_column(heading, justify="right")
    for row in results:
        name = row["module"].removeprefix("model.layers.")
        cells = (str(row["adapters"]), row["index"], f"{row['share']:.2f}", f"{row['recall']:.3f}")
        table.add_row(name, row["library"], *cells)
    return table


def _options(argv: Sequence[str] | None) -> Namespace:
    arguments = ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--adapters", type=int, default=2000, help="of the synthetic library")
    arguments.add_argument("--questions", type=int, default=50)
    arguments.add_argument("--modules", type=int, default=3, help="the first so many")
    arguments.add_argument("--quick", action="store_true", help="one module, fewer adapters")
    arguments.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers here")
    options = arguments.parse_args(argv)
    if options.quick:
        options.adapters, options.questions, options.modules = 500, 10, 1
    return options


if __name__ == "__main__":
    main(sys.argv[1:])
