"""What `lag encode` prints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.table import Table

from lag_engine.cli.console import err, out, print_error

if TYPE_CHECKING:
    from lag_engine.documents import SyncReport
    from lag_engine.documents.augment import AugmentCounts
    from lag_engine.documents.status import DocumentStatus

_MOST_LINES = 10


def show_report(report: SyncReport, *, unused_lines: Sequence[int]) -> None:
    """Prints counts; what failed or was left out goes to standard error, by name."""
    counts = {
        "new": len(report.new),
        "changed": len(report.changed),
        "stale": len(report.stale),
        "current": len(report.current),
        "deleted": len(report.deleted),
        "failed": len(report.failed),
        "ignored": len(report.ignored),
    }
    told = ", ".join(f"{n} {state}" for state, n in counts.items() if n)
    out.print(f"Documents: {told or 'none'}.", highlight=False)
    if unused_lines:
        shown = ", ".join(map(str, unused_lines[:_MOST_LINES]))
        more = " ..." if len(unused_lines) > _MOST_LINES else ""
        err.print(
            f"Lines of the pairs file whose file or answer is in no passage: {shown}{more}",
            highlight=False,
        )
    for error in report.failed.values():
        print_error(error)


def show_counts(counts: AugmentCounts, name: str) -> None:
    """Prints what became of the model's replies."""
    told = ", ".join(f"{n} {what.replace('_', ' ')}" for what, n in asdict(counts).items() if n)
    out.print(f"Written by {name}: {told or 'nothing'}.", highlight=False)


def show_status(found: Sequence[DocumentStatus]) -> None:
    """Prints a table, a row for each document."""
    counts = Counter(status.state for status in found)
    title = ", ".join(f"{n} {state}" for state, n in sorted(counts.items())) or "no documents"
    table = Table("document", "state", title=title)
    table.add_column("passages", justify="right")
    table.add_column("current", justify="right")
    table.add_column("encoded")
    for status in found:
        numbers = (str(status.n_passages), str(status.n_current))
        table.add_row(status.id, status.state, *numbers, status.updated or "never")
    out.print(table)
    if counts["stale"]:
        err.print(
            "Stale: an adapter is missing, or was made with other options or pairs than are given "
            "now.",
            highlight=False,
        )
