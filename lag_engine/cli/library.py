"""`lag library`: adapters in and out of a library on disk."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from lag_engine.cli.console import LagGroup, n_bytes_text, out
from lag_engine.errors import LibraryError

if TYPE_CHECKING:
    from lag_engine.adapters.info import AdapterInfo
    from lag_engine.adapters.library import AdapterLibrary

library_app = typer.Typer(
    cls=LagGroup, help="Adapter libraries: make, fill, check, empty.", no_args_is_help=True
)

Kind = Literal["task", "knowledge"]
EntryKind = Literal["task", "knowledge", "latent", "mixture"]
Score = Literal["arrow", "projection", "norm", "relative"]
Library = Annotated[Path, typer.Argument(help="The library's folder.", show_default=False)]
Name = Annotated[str, typer.Argument(help="An adapter's name.", show_default=False)]


@library_app.command()
def create(
    library: Library,
    base_model: Annotated[
        str, typer.Option(help="'lag-tiny', a model folder or a hub id that the adapters are for.")
    ],
    dtype: Annotated[str, typer.Option(help="Of the stored factors.")] = "float32",
) -> None:
    """Make an empty library."""
    from lag_engine.adapters.library import AdapterLibrary
    from lag_engine.model.loading import resolve

    source = resolve(base_model)
    with AdapterLibrary.create(
        library, base_model=source, base_name=base_model, dtype=dtype
    ) as made:
        out.print(f"Made {made.path} for {made.base_model}.")


@library_app.command()
def add(
    library: Library,
    sources: Annotated[list[str], typer.Argument(help="PEFT folders or hub ids.")],
    kind: Annotated[Kind, typer.Option(help="What the adapters hold.")] = "task",
    name: Annotated[str | None, typer.Option(help="Instead of the source's own name.")] = None,
    document_id: Annotated[str | None, typer.Option(help="Of a knowledge adapter.")] = None,
    revision: Annotated[str | None, typer.Option(help="Of a hub id.")] = None,
    allow_pickle: Annotated[bool, typer.Option(help="Also read adapter_model.bin.")] = False,
    allow_other_base: Annotated[
        bool, typer.Option(help="Accept one trained on a model of another name, if it fits.")
    ] = False,
) -> None:
    """Add adapters, all of them or none."""
    from lag_engine.adapters.info import AdapterSource

    if len(sources) > 1 and (name or document_id):
        raise LibraryError(
            "Expected one source where --name or --document-id is given",
            f"found {len(sources)}",
            "add these adapters one by one",
        )
    offers = [
        AdapterSource(
            source,
            name=name,
            kind=kind,
            document_id=document_id,
            revision=revision,
            allow_pickle=allow_pickle,
            allow_other_base=allow_other_base,
        )
        for source in sources
    ]
    with _open(library, read_only=False) as opened:
        added = opened.add_many(offers, progress=len(offers) > 1)
        out.print(f"Added {len(added)}; the library holds {len(opened)}.")


@library_app.command("list")
def list_adapters(
    library: Library,
    kind: Annotated[EntryKind | None, typer.Option(help="Only these.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line.")] = False,
) -> None:
    """List the adapters in joining order."""
    with _open(library) as opened:
        infos = opened.list(kind)
        base_model = opened.base_model
    if as_json:
        for info in infos:
            out.print_json(json.dumps(_plain(info)), indent=None)
        return
    table = Table(title=f"{len(infos)} adapters for {base_model or 'an unnamed model'}")
    for heading in ("name", "kind", "document", "rank", "modules", "size"):
        numeric = heading in ("rank", "modules", "size")
        table.add_column(heading, justify="right" if numeric else "left")
    for info in infos:
        numbers = (str(info.rank), str(len(info.modules)), n_bytes_text(info.n_bytes))
        table.add_row(info.name, info.kind, info.document_id or "", *numbers)
    out.print(table)


@library_app.command()
def info(library: Library, name: Name) -> None:
    """Show everything about one adapter."""
    with _open(library) as opened:
        out.print_json(json.dumps(_plain(opened.info(name))))


@library_app.command()
def remove(
    library: Library, names: Annotated[list[str], typer.Argument(help="Adapters' names.")]
) -> None:
    """Remove adapters; `compact` gives their room on disk back."""
    with _open(library, read_only=False) as opened:
        for name in names:
            opened.info(name)
        for name in names:
            opened.remove(name)
        out.print(f"Removed {len(names)}; the library holds {len(opened)}.")


@library_app.command()
def rename(
    library: Library, old: Name, new: Annotated[str, typer.Argument(help="Its new name.")]
) -> None:
    """Rename an adapter."""
    with _open(library, read_only=False) as opened:
        opened.rename(old, new)
        out.print(f"{old} is now {new}.")


@library_app.command()
def verify(library: Library) -> None:
    """Read everything and compare it with the recorded hashes."""
    with _open(library) as opened:
        report = opened.verify()
    size = n_bytes_text(report.n_bytes)
    out.print(f"Sound: {report.n_adapters} adapters in {report.n_segments} segments, {size}.")


@library_app.command()
def compact(library: Library) -> None:
    """Give back the room of removed adapters."""
    with _open(library, read_only=False) as opened:
        out.print(f"Freed {n_bytes_text(opened.compact())}.")


@library_app.command()
def export(
    library: Library,
    name: Name,
    folder: Annotated[Path, typer.Argument(help="Where the PEFT adapter goes.")],
) -> None:
    """Write an adapter as a PEFT folder."""
    with _open(library) as opened:
        opened.export(name, folder)
    out.print(f"Wrote {name} to {folder}.")


@library_app.command()
def audit(
    library: Library,
    score: Annotated[Score, typer.Option(help="What routing compares by.")] = "projection",
) -> None:
    """Look for dead, duplicate and dominant adapters; exits with 2 if there are any."""
    from lag_engine.adapters.audit import audit as run_audit

    with _open(library) as opened:
        report = run_audit(opened, score=score)
    out.print(str(report), markup=False, highlight=False)
    if not report.is_clean:
        raise typer.Exit(2)


def _open(library: Path, *, read_only: bool = True) -> AdapterLibrary:
    from lag_engine.adapters.library import AdapterLibrary

    return AdapterLibrary.open(library, read_only=read_only)


def _plain(info: AdapterInfo) -> dict[str, Any]:
    return {**asdict(info), "modules": list(info.modules), "metadata": dict(info.metadata)}
