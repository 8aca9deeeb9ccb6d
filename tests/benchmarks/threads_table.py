"""The table of several compute threads: wall time, beside one thread in the same run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pages import markdown, met, spread_text
from targets import TARGETS, Target

Report = Mapping[str, Any]
Row = Mapping[str, Any]


def has_threads(report: Report) -> bool:
    """Whether a report of `bench_routing` has results of more than one compute thread."""
    return any(row.get("threads", 1) > 1 for row in report["results"])


def threads_sections(reports: Mapping[str, Report]) -> Iterator[str]:
    """Yields the section, with its heading, where there are results for it."""
    headings = ("", "target", "one thread", "two threads", "", "base", "lag", "file")
    lines = [
        line
        for target in TARGETS
        for file, report in reports.items()
        if report["program"] == "bench_routing" and has_threads(report)
        for line in _lines(target, file, report["results"])
    ]
    if lines:
        yield (
            "## Two compute threads\n\nWall time, other work paused; `base` and `lag`: "
            "how many times as fast as their one thread in the same run.\n\n"
            + markdown(headings, lines)
        )


def _lines(target: Target, file: str, rows: list[Row]) -> Iterator[tuple[str, ...]]:
    found = {row["threads"]: row for row in rows if target.is_of(row)}
    if target.peer is not None or not {1, 2} <= found.keys():
        return
    one, two = (target.measured(found[threads]) for threads in (1, 2))
    yield (
        target.what,
        target.text,
        spread_text(one, 3),
        spread_text(two, 3),
        met(target.is_met(two["median"])),
        *(_gain(rows, found[2], variant) for variant in ("base", "lag")),
        file,
    )


def _gain(rows: list[Row], like: Row, variant: str) -> str:
    """How much faster a variant is with two threads than with one, at what `like` is about."""
    same = ("work", "adapters", "retrieve_k", "rank")
    ms = {
        row["threads"]: row["ms"]["median"]
        for row in rows
        if row["variant"] == variant and all(row[key] == like[key] for key in same)
    }
    return f"{ms[1] / ms[2]:.2f} x"
