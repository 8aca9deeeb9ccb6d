"""The figures of a report, as PNG: scores, score against K, against library size, routing."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from lag_engine.evaluation.option_tables import sizes
from lag_engine.evaluation.score_book import ScoreBook
from lag_engine.evaluation.statistics import Interval
from lag_engine.evaluation.systems import System
from lag_engine.evaluation.tables import usual

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0b6e99", "#c2571a", "#4c8c4a", "#7a4e9c", "#a23b57", "#6b6b6b", "#b08a1e")
_INK = "#333333"


class Picture(NamedTuple):
    """A figure.

    Attributes:
        name: of its file, without ending.
        caption: what it shows, in a sentence.
        png: its bytes.
    """

    name: str
    caption: str
    png: bytes


def all_pictures(books: Sequence[ScoreBook]) -> list[Picture]:
    """Returns the figures that the results allow.

    Args:
        books: as for `all_tables`.
    """
    made = [
        _scores(books[0]),
        _candidates(books[0]),
        _library(books),
        *(_routing(books[0], slot) for slot in ("task", "knowledge")),
    ]
    return [picture for picture in made if picture is not None]


def _scores(book: ScoreBook) -> Picture:
    """Bars of the mean, one for each mode."""
    systems = usual(book)
    means = [book.mean(system) for system in systems]
    figure, axes = _figure(6.4, 0.9 + 0.32 * len(systems))
    positions = range(len(systems))
    axes.barh(
        positions,
        [100 * mean.score for mean in means],
        xerr=_errors(means),
        color=[_colour(system) for system in systems],
        error_kw={"ecolor": _INK, "elinewidth": 1, "capsize": 2},
        height=0.68,
    )
    axes.set_yticks(positions, [system.title for system in systems])
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("mean score, %")
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    return Picture("scores", "Mean score of every mode; bars span intervals of 95 %.", _png(figure))


def _candidates(book: ScoreBook) -> Picture | None:
    """The paper's figure 3: score against the number of candidates."""
    series: dict[str, dict[int, Interval]] = {}
    adaptive: dict[str, Interval] = {}
    for system in book.systems:
        base = System(**{k: v for k, v in system.told().items() if k != "retrieve_k"})
        if system.has_lag and system.document in ("retrieved", "right"):
            if isinstance(system.retrieve_k, int):
                series.setdefault(base.name, {})[system.retrieve_k] = book.mean(system)
            else:
                adaptive[base.name] = book.mean(system)
    series = {name: dict(sorted(s.items())) for name, s in series.items() if len(s) > 1}
    if not series:
        return None
    figure, axes = _figure(7.6, 3.8)
    _lines(axes, series)
    for name, colour in zip(series, COLOURS, strict=False):
        if name in adaptive:
            label = f"{name}, adaptive K"
            axes.axhline(100 * adaptive[name].score, color=colour, ls=":", lw=1.2, label=label)
    for mode, style in (("arrow", "--"), ("oracle", "-.")):
        if (other := book.find(mode)) is not None:
            score = 100 * book.mean(other).score
            axes.axhline(score, color="#888888", ls=style, lw=1, label=other.title)
    _finish(axes, series, "candidates reranked, K")
    return Picture("score-against-k", "Mean score against K, with intervals of 95 %.", _png(figure))


def _library(books: Sequence[ScoreBook]) -> Picture | None:
    series = sizes(books)
    if not series:
        return None
    figure, axes = _figure(7.6, 3.8)
    _lines(axes, series)
    _finish(axes, series, "documents to choose from")
    caption = "Mean score against the size of the library, with intervals of 95 %."
    return Picture("score-against-library", caption, _png(figure))


def _routing(book: ScoreBook, slot: str) -> Picture | None:
    """A map of layers and modules, coloured by how often LAG chose the gold adapter."""
    system = book.find("lag") or next((s for s in book.systems if book.routing(s, slot)), None)
    cells = {} if system is None else book.routing_cells(system, slot)
    if system is None or not cells:
        return None
    layers = sorted({layer for layer, _ in cells})
    modules = list(dict.fromkeys(module for _, module in cells))
    grid = [[100 * cells.get((la, m), math.nan) for la in layers] for m in modules]
    figure, axes = _figure(2.4 + 0.55 * len(layers), 1.3 + 0.36 * len(modules))
    image = axes.imshow(grid, vmin=0, vmax=100, cmap="YlGnBu", aspect="auto")
    for row, line in enumerate(grid):
        for column, share in enumerate(line):
            if not math.isnan(share):  # a layer may lack a module
                colour = "white" if share > 55 else _INK
                axes.text(column, row, f"{share:.0f}", ha="center", va="center", color=colour)
    axes.set_xticks(range(len(layers)), [str(layer) for layer in layers])
    axes.set_yticks(range(len(modules)), modules)
    axes.set_xlabel("layer")
    figure.colorbar(image, ax=axes, label="gold adapter chosen, %")
    what = {"task": "task", "knowledge": "document"}[slot]
    caption = (
        f"How often {system.name} chose the gold {what} adapter, by layer and module, at the "
        "tokens that decide the answer."
    )
    return Picture(f"routing-{slot}", caption, _png(figure))


def _lines(axes: Axes, series: Mapping[str, Mapping[int, Interval]]) -> None:
    for i, ((name, points), colour) in enumerate(zip(series.items(), COLOURS, strict=False)):
        means = list(points.values())
        axes.errorbar(
            [x * (1 + 0.03 * i) for x in points],  # apart, so that none hides another
            [100 * mean.score for mean in means],
            yerr=_errors(means),
            label=name,
            color=colour,
            marker="o",
            markersize=4,
            capsize=2,
            linewidth=1.4,
        )


def _finish(axes: Axes, series: Mapping[str, Mapping[int, Interval]], label: str) -> None:
    """A logarithmic axis with the measured values on it, and a legend."""
    ticks = sorted({x for points in series.values() for x in points})
    axes.set_xscale("log")
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel(label)
    axes.set_ylabel("mean score, %")
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1))


def _errors(means: Sequence[Interval]) -> list[list[float]]:
    """Distances to both ends, never negative; (2, n)."""
    lows = [max(0.0, 100 * (mean.score - mean.low)) for mean in means]
    return [lows, [max(0.0, 100 * (mean.high - mean.score)) for mean in means]]


def _colour(system: System) -> str:
    if system.mode == "oracle":
        return "#9aa5ad"
    return COLOURS[0] if system.has_lag else "#d6a77a"


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure, axes


def _png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=160, metadata={"Software": None})
    return file.getvalue()
