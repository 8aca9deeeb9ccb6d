"""Whether a coarse index over arrow vectors pays: recall of the exact winner, share read.

lag-tiny's document adapters, or another library's of the same model, and inputs of its own
questions; then a synthetic library in which each adapter is a mixture of two trained ones. The
exact winner is what a `lag` plan of K = 20 applies; what scores as high to float32's rounding
counts as found. `indexes.py` has the indices; `4 bits, operator` is what approximate plans apply
where the compiled operator reads four bits, and is absent elsewhere.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from common import count, one_thread, open_report, parsed, parser, write_json
from indexes import WINDOWS, indexes
from rich.table import Table
from torch import Tensor

from lag_engine import AdapterLibrary, LAGEngine, tiny
from lag_engine.adapters import to_spectral_batched
from lag_engine.adapters.stack import Places
from lag_engine.model.bank import ResidentStack
from lag_engine.model.kernels import CompiledSlot, kernel_status
from lag_engine.model.kernels.build import build
from lag_engine.routing import LAG
from lag_engine.routing.scores import rounding_tolerance

K = 20
TOKENS = 6000
"""Inputs of a module at most; half of them are for the indices that learn."""


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Runs the program and returns what it prints."""
    options = _options(argv)
    torch.manual_seed(0)
    with one_thread():
        facts, console = open_report()
        inputs = _inputs(options.questions)
        with AdapterLibrary.open(options.library or tiny.library_path(), read_only=True) as library:
            modules = library.modules("knowledge")
            stacks = {name: library.stack(name, "knowledge") for name in inputs if name in modules}
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
    best = _best(x, A, exact.topk(K).indices) - rounding_tolerance(x)[:, 0]

    def row(index: str, share: float, found: Tensor) -> dict[str, Any]:
        return {"index": index, "share": share, "recall": float((found >= best).float().mean())}

    for found in indexes(x, arrow, other, K):
        rows = exact.masked_fill(~found.kept, -1).topk(K).indices
        yield row(found.index, found.share, _best(x, A, rows))
        if found.index == f"4 bits, {WINDOWS[-1]:g} sd":
            chosen = _chosen(x, A)
            if chosen is not None:
                yield row("4 bits, operator", found.share, _best(x, A, chosen))


def _best(x: Tensor, A: Tensor, rows: Tensor) -> Tensor:
    """Returns the best reranked score among the rows (T, K); (T,)."""
    pairs = zip(x.split(64), rows.split(64), strict=True)
    return torch.cat(
        [torch.einsum("td,tkrd->tkr", some, A[at]).norm(dim=-1).amax(-1) for some, at in pairs]
    )


def _chosen(x: Tensor, A: Tensor) -> Tensor | None:
    """Returns what the compiled operator applies to each token alone, approximately; (T, 1)."""
    loaded = build().loaded if kernel_status().is_ready else None
    if loaded is None or not loaded.lag_reads_nibbles():
        return None
    stack = ResidentStack(InMemory(A), torch.device("cpu")).compiled
    assert stack is not None
    stack.reads_nibbles = True  # also where so few are scanned exactly
    slot = CompiledSlot(LAG(K, approximate=True), stack, None)
    updates = [slot.update(token) for token in x.split(1)]
    return torch.cat([update.rows for update in updates if update is not None])


class InMemory:
    """Adapters of A* (N, R, D), which lie in memory as a library's do; their B* adds nothing."""

    def __init__(self, A: Tensor) -> None:
        self._A = A.contiguous()
        self._B = torch.zeros(len(A), A.shape[1], 1)
        self.names = tuple(map(str, range(len(A))))
        self.singular = torch.ones(A.shape[:2])
        self.arrow = A[:, 0]
        ranks = torch.full((len(A),), A.shape[1])
        starts = _addresses(self._A)  # of the arrow vectors too
        self.places = Places(starts, _addresses(self._B), starts, ranks, A.dtype)

    def A(self, rows: Tensor) -> Tensor:
        """Returns A* of these rows; (*rows.shape, R, D)."""
        return self._A[rows]

    def B(self, rows: Tensor) -> Tensor:
        """Returns B* of these rows; (*rows.shape, R, 1)."""
        return self._B[rows]


def _addresses(parts: Tensor) -> Tensor:
    step = parts.stride(0) * parts.itemsize
    return parts.data_ptr() + step * torch.arange(len(parts))


def _libraries(stack: Any, n: int) -> Iterator[tuple[str, Tensor]]:
    """Yields the trained library, and n mixtures of its pairs; A* is (N, R, D_in)."""
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
    return {name: x[torch.randperm(len(x))[:TOKENS]].float() for name, x in found.items()}


def _table(results: Sequence[dict[str, Any]]) -> Table:
    table = Table(title="the exact winner's recall; target 0.999")
    for heading in ("module", "library", "adapters", "index", "share read", "recall"):
        table.add_column(heading, justify="right")
    for row in results:
        name = row["module"].removeprefix("model.layers.")
        cells = (str(row["adapters"]), row["index"], f"{row['share']:.3f}", f"{row['recall']:.4f}")
        table.add_row(name, row["library"], *cells)
    return table


def _options(argv: Sequence[str] | None) -> Namespace:
    arguments = parser(__doc__)
    arguments.add_argument("--adapters", type=count, default=2000, help="of the synthetic library")
    arguments.add_argument("--questions", type=count, default=200)
    arguments.add_argument("--modules", type=count, default=6, help="the first so many")
    arguments.add_argument(
        "--library", type=Path, metavar="DIR", help="another one of lag-tiny's base"
    )
    options = parsed(arguments, argv, adapters=500, questions=10, modules=1)
    if options.adapters < K:
        arguments.error(f"{K} adapters are retrieved: give at least as many")
    return options


if __name__ == "__main__":
    main(sys.argv[1:])
