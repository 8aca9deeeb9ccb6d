"""What a collection takes on disk: an adapter for each document, or mixtures of latent adapters.

Run it with ``python -m lag_engine.tiny.encoder_storage --documents 1000``.

The adapters are random, of the tiny model's shapes and PRAG's rank; what is measured is the
library's folder, manifest included, once it is closed. What is left out by the encoders' own counts
(names, notes, indexes) so counts here.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch
from rich.console import Console
from rich.table import Table

from lag_engine.adapters import (
    AdapterLibrary,
    AdapterSource,
    LoraModule,
    MixtureSource,
    ModuleShape,
    PeftAdapter,
)
from lag_engine.documents import PRAGSettings
from lag_engine.tiny.shipped import model_path

LATENTS = ((20, 4), (6, 3))
"""Latent adapters, and how many of them a passage mixes; as in the table of encoders."""

Fill = Callable[[AdapterLibrary, int], None]


class Storage(NamedTuple):
    """One way to keep a collection.

    Attributes:
        name: Of it.
        n_bytes: Of the library's folder.
        per_document: Its share of that.
        one_more: Bytes that one further document adds, once there are as many.
        ratio: How many times more an adapter for each document takes.
    """

    name: str
    n_bytes: int
    per_document: float
    one_more: float
    ratio: float


def measure(n: int) -> list[Storage]:
    """Every way, for `n` documents."""
    ways: dict[str, Fill] = {"PRAG, an adapter each": _fill_adapters}
    for latents, top_k in LATENTS:
        ways[f"Poly-PRAG, {latents} latent adapters"] = _filler(latents, top_k)
    half, whole = max(1, n // 2), n
    rows: list[Storage] = []
    for name, fill in ways.items():
        few, many = (_folder_bytes(fill, count) for count in (half, whole))
        first = rows[0].n_bytes if rows else many
        grown = (many - few) / (whole - half) if whole > half else float(many)
        rows.append(Storage(name, many, many / n, grown, first / many))
    return rows


def _folder_bytes(fill: Fill, n: int) -> int:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "library"
        with AdapterLibrary.create(path, base_model=model_path(), base_name="lag-tiny") as library:
            fill(library, n)
            library.compact()
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _fill_adapters(library: AdapterLibrary, n: int) -> None:
    adapters = _adapters(library, n)
    sources = (
        AdapterSource(adapter, f"prag-{i}", "knowledge", f"{i}", _notes("prag"))
        for i, adapter in enumerate(adapters)
    )
    library.add_many(list(sources), progress=False)


def _filler(latents: int, top_k: int) -> Fill:
    def fill(library: AdapterLibrary, n: int) -> None:
        sources = [
            AdapterSource(adapter, f"latent-{i:02d}", "latent")
            for i, adapter in enumerate(_adapters(library, latents))
        ]
        generator = torch.Generator().manual_seed(0)
        mixtures = []
        for i in range(n):
            weights = {}
            for module in _targets(library):
                chosen = torch.randperm(latents, generator=generator)[:top_k].tolist()
                weights[module] = {f"latent-{k:02d}": 1 / top_k for k in chosen}
            mixtures.append(MixtureSource(f"polyprag-{i}", weights, f"{i}", _notes("polyprag")))
        library.add_mixtures(mixtures, latents=sources)

    return fill


def _adapters(library: AdapterLibrary, n: int) -> Iterator[PeftAdapter]:
    rank = PRAGSettings().rank
    for seed in range(n):
        random = torch.Generator().manual_seed(seed)
        modules = {
            module: LoraModule(
                torch.randn(rank, shape.d_in, generator=random),
                torch.randn(shape.d_out, rank, generator=random),
                1.0,
            )
            for module, shape in _targets(library).items()
        }
        yield PeftAdapter(modules)


def _targets(library: AdapterLibrary) -> dict[str, ModuleShape]:
    """The modules that PRAG adapts, with their widths."""
    ends = PRAGSettings().targets
    return {name: s for name, s in (library.base.shapes or {}).items() if name.endswith(ends)}


def _notes(encoder: str) -> dict[str, object]:
    """What an encoder notes of each passage."""
    hashed = "0123456789abcdef"
    return {
        "encoder": encoder,
        "revision": hashed,
        "passage": hashed,
        "title": "A title",
        "loss": 0.123456,
    }


def main() -> None:
    """Measures, prints the table, and writes it if a file is asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--documents", type=int, default=1000)
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    rows = measure(arguments.documents)
    table = Table("collection", title=f"{arguments.documents:,} documents on disk")
    for heading in ("bytes", "bytes a document", "bytes of one more", "x smaller"):
        table.add_column(heading, justify="right")
    for row in rows:
        numbers = (f"{row.n_bytes:,}", f"{row.per_document:,.0f}", f"{row.one_more:,.0f}")
        table.add_row(row.name, *numbers, f"{row.ratio:.0f}")
    Console(width=110).print(table)
    if arguments.json:
        report = {"documents": arguments.documents, "rows": [row._asdict() for row in rows]}
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
