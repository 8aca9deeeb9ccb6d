"""A picture of one answer's routing: tokens across, modules down, a colour for each adapter."""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

PALETTES = {"task": "tab10", "knowledge": "Dark2"}
"""A slot's colours; two, so that one colour is never an adapter of each."""

MAX_COLOURS = 7  # of both palettes, those before their grey
BASE, OTHER = "white", "lightgrey"


class Grid(NamedTuple):
    """Who was chosen where, in one slot.

    Attributes:
        slot: "task" or "knowledge".
        modules: row labels, by layer.
        names: the adapter of each module and token; None where the base model was left alone.
    """

    slot: str
    modules: list[str]
    names: list[list[str | None]]


def write_heat_map(
    trace: Mapping[str, Any], path: Path, *, title: str, n_prompt_tokens: int
) -> None:
    """Draws a routing trace and writes it as PNG.

    Args:
        trace: from `RoutingTrace.to_dict()`.
        path: of the picture; its folder is made.
        title: above it.
        n_prompt_tokens: a line is drawn after them.
    """
    figure = draw_heat_map(trace, title=title, n_prompt_tokens=n_prompt_tokens)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def draw_heat_map(trace: Mapping[str, Any], *, title: str, n_prompt_tokens: int) -> Figure:
    """Returns the picture of a routing trace that chose adapters in at least one module.

    Args:
        trace: from `RoutingTrace.to_dict()`.
        title: above it.
        n_prompt_tokens: a line is drawn after them.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    grids = [grid for slot in trace["slots"] if (grid := _grid(trace, slot)).modules]
    tokens = trace["tokens"]
    heights = [len(grid.modules) for grid in grids]
    size = (max(9.0, 2.5 + 0.24 * len(tokens)), 2.2 + 0.24 * sum(heights))
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(textwrap.fill(title, width=int(size[0] * 8)), fontsize=10)
    all_axes = figure.subplots(len(grids), 1, sharex=True, squeeze=False, height_ratios=heights)
    for axes, grid in zip(all_axes[:, 0], grids, strict=True):
        _draw(axes, grid, n_prompt_tokens)
    lowest: Axes = all_axes[-1, 0]
    labels = [_readable(token) for token in tokens]
    lowest.set_xticks(range(len(tokens)), labels, rotation=90, fontsize=7, family="monospace")
    return figure


def adapter_colours(trace: Mapping[str, Any], slot: str) -> dict[str, str]:
    """Returns the colour in the picture of each adapter that has one, most used first; hex.

    Args:
        trace: from `RoutingTrace.to_dict()`.
        slot: "task" or "knowledge".
    """
    from matplotlib.colors import to_hex

    shown = _shown(_counts(_grid(trace, slot)))
    return dict(zip(shown, map(to_hex, _colours(slot, len(shown))), strict=True))


def _grid(trace: Mapping[str, Any], slot: str) -> Grid:
    decisions = [decision for decision in trace["decisions"] if decision["slot"] == slot]
    decisions.sort(key=lambda decision: _layer(decision["module"]))
    names = [[_first(adapters) for adapters in d["adapters"]] for d in decisions]
    return Grid(slot, [_short(d["module"]) for d in decisions], names)


def _draw(axes: Axes, grid: Grid, n_prompt_tokens: int) -> None:
    from matplotlib.colors import ListedColormap

    counts = _counts(grid)
    shown = _shown(counts)
    colours = [BASE, OTHER, *_colours(grid.slot, len(shown))]
    index = {name: i + 2 for i, name in enumerate(shown)}
    cells = [[0 if n is None else index.get(n, 1) for n in row] for row in grid.names]
    axes.imshow(
        cells, cmap=ListedColormap(colours), vmin=-0.5, vmax=len(colours) - 0.5, aspect="auto"
    )
    axes.axvline(n_prompt_tokens - 0.5, color="black", linewidth=1.5)
    axes.set_yticks(range(len(grid.modules)), grid.modules, fontsize=7)
    axes.set_ylabel(f"{grid.slot} adapters")
    axes.tick_params(length=0)
    handles = _legend(counts, dict(zip(shown, colours[2:], strict=True)))
    axes.legend(handles=handles, loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=7)


def _counts(grid: Grid) -> Counter[str | None]:
    return Counter(name for row in grid.names for name in row)


def _shown(counts: Counter[str | None]) -> list[str]:
    """The adapters that have a colour, most used first."""
    return [name for name, _ in counts.most_common() if name is not None][:MAX_COLOURS]


def _legend(counts: Counter[str | None], colours: Mapping[str | None, Any]) -> list[Patch]:
    """A patch with its share for each coloured adapter, then the others, then the base model."""
    from matplotlib.patches import Patch

    total = counts.total()
    patches = [
        Patch(color=colour, label=f"{name} {counts[name] / total:.0%}")
        for name, colour in colours.items()
    ]
    others = [count for name, count in counts.items() if name is not None and name not in colours]
    if others:
        label = f"{len(others)} others {sum(others) / total:.0%}"
        patches.append(Patch(color=OTHER, label=label))
    if counts[None]:
        label = f"base model {counts[None] / total:.0%}"
        patches.append(Patch(facecolor=BASE, edgecolor="grey", label=label))
    return patches


def _colours(slot: str, n: int) -> Sequence[Any]:
    from matplotlib import colormaps

    palette = colormaps[PALETTES[slot]]
    return [palette(i) for i in range(n)]


def _first(adapters: Sequence[str | None]) -> str | None:
    return adapters[0] if adapters else None


def _layer(module: str) -> tuple[int, str]:
    number = re.search(r"(?:^|\.)(\d+)(?:\.|$)", module)
    return (int(number[1]) if number else -1, module)


def _short(module: str) -> str:
    layer, _ = _layer(module)
    name = module.rsplit(".", 1)[-1]
    return name if layer < 0 else f"{layer} {name}"


def _readable(token: str) -> str:
    text = repr(token)[1:-1]
    return text.replace(" ", "␣") if len(text) <= 14 else text[:13] + "…"
