"""A table of a report, and the form of its cells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from lag_engine.evaluation.statistics import Interval


class Cell(NamedTuple):
    """A cell's text, and a smaller one such as an interval."""

    text: str
    note: str = ""


@dataclass(frozen=True)
class Table:
    """A table of a report.

    Attributes:
        title: a few words.
        note: what the reader must know.
        header: column names; the first names the rows.
        rows: cells, as many as columns.
    """

    title: str
    note: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


NOTHING = Cell("–")


def percent(interval: Interval) -> Cell:
    """A score in per cent, with its interval."""
    return Cell(
        f"{100 * interval.score:.1f}", f"{100 * interval.low:.1f}–{100 * interval.high:.1f}"
    )
