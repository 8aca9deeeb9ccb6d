"""What `lag encode` prints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, NamedTuple

from rich.table import Table

from lag_engine.cli.console import err, out, print_error

if TYPE_CHECKING:
    from lag_engine.documents import SyncReport
    from lag_engine.documents.augment import AugmentCounts
    from lag_engine.documents.status import DocumentStatus

_MOST_LINES = 10
HIGH_LOSS = 1.0
"""Nats a token, of the passage's own training text: above it an adapter knows little of it."""


class Losses(NamedTuple):
    """The last losses of what was encoded.

    Attributes:
        median: Of all; None if nothing was encoded.
        by_passage: Each passage's.
    """

    median: float | None
    by_passage: Mapping[str, float]


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


def show_losses(losses: Losses) -> None:
    """Prints how well the passages were learnt, and warns where they were not."""
    if losses.median is None:
        return
    worst = max(losses.by_passage, key=lambda key: losses.by_passage[key])
    out.print(
        f"Loss at the end: {losses.median:.2f} in the median of {len(losses.by_passage)} passages, "
        f"at most {losses.by_passage[worst]:.2f} ({worst}).",
        highlight=False,
        markup=False,
    )
    n_high = sum(loss > HIGH_LOSS for loss in losses.by_passage.values())
    if n_high:
        err.print(
            f"Warning: the loss is above {HIGH_LOSS} for {n_high} of them: their adapters know "
            "little of their passages. Raise --epochs or --learning-rate.",
            highlight=False,
        )


def show_translator(translated: bool | None) -> None:
    """Prints whether the translator was trained; nothing where there is to be none."""
    if translated is not None:
        out.print("Translator: trained." if translated else "Translator: current.")


def show_kept(n_current: int, n_passages: int) -> None:
    """Prints what an encoding that was interrupted leaves."""
    kept = f"{n_current} of {n_passages} passages are kept" if n_current else "nothing is kept yet"
    text = f"Interrupted: {kept}. The same command goes on from there."
    err.print(text, highlight=False, soft_wrap=True)


def show_counts(counts: AugmentCounts, name: str) -> None:
    """Prints what became of the model's replies."""
    told = ", ".join(f"{n} {what.replace('_', ' ')}" for what, n in asdict(counts).items() if n)
    out.print(f"Written by {name}: {told or 'nothing'}.", highlight=False)


def show_status(found: Sequence[DocumentStatus], *, has_translator: bool | None = None) -> None:
    """Prints a table, a row for each document.

    Args:
        found: Of each document.
        has_translator: Whether the translator is there and of these passages; None tells nothing.
    """
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
    if has_translator is not None:
        out.print(f"Translator: {'current' if has_translator else 'to be trained'}.")
    if counts["stale"]:
        err.print(
            "Stale: an adapter is missing, or was made with other options or pairs than are given "
            "now.",
            highlight=False,
        )
