"""Draws how the time that routing adds grows with the number of adapters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

WORKS = ("decode", "prefill")


def draw_growth(rows: Sequence[Mapping[str, Any]], growth: Mapping[str, float], path: Path) -> None:
    """Writes a PNG of added milliseconds over adapters, a panel for each work, both logarithmic."""
    from matplotlib.figure import Figure

    works = [work for work in WORKS if any(row["work"] == work for row in rows)]
    figure = Figure(figsize=(4.6 * len(works), 3.6), layout="constrained")
    for axes, work in zip(figure.subplots(1, len(works), squeeze=False)[0], works, strict=True):
        here = [row for row in rows if row["work"] == work]
        for variant in dict.fromkeys(row["variant"] for row in here if row["variant"] != "base"):
            points = [row for row in here if row["variant"] == variant and row["added_ms"] > 0]
            exponent = growth.get(f"{work}, {variant}", float("nan"))
            axes.plot(
                [row["adapters"] for row in points],
                [row["added_ms"] for row in points],
                marker="o",
                label=f"{variant} (exponent {exponent:.2f})",
            )
        base = [row["ms"].median for row in here if row["variant"] == "base"]
        axes.axhline(sum(base) / len(base), color="grey", linestyle=":", label="the base itself")
        axes.set(
            xscale="log", yscale="log", xlabel="adapters", ylabel="added ms", title=_title(here)
        )
        axes.legend(fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _title(rows: Sequence[Mapping[str, Any]]) -> str:
    first = rows[0]
    return f"{first['work']}, shape {first['shape']}, {first['dtype']}"
