"""What the manifest says, as values: adapters, segments, and the modules adapters update."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lag_engine.adapters.stack import ModuleShape


class AdapterRow(NamedTuple):
    """One live adapter as the manifest has it, in the manifest's order of columns."""

    id: int
    name: str
    kind: str
    document_id: str | None
    segment: int
    position: int
    layout: int
    n_bytes: int
    source: str
    base_model: str | None
    sha256: str
    metadata: str
    created: str


class SegmentRow(NamedTuple):
    """One segment file that the manifest vouches for."""

    id: int
    file: str
    sha256: str
    n_bytes: int


class Layout(NamedTuple):
    """The modules that an adapter updates, with rank and widths; shared by many adapters."""

    ranks: Mapping[str, int]
    shapes: Mapping[str, ModuleShape]

    def to_json(self) -> str:
        """The form it is stored and compared in."""
        rows = [[module, self.ranks[module], *self.shapes[module]] for module in sorted(self.ranks)]
        return json.dumps(rows, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Layout:
        """Reads what `to_json` wrote."""
        rows = json.loads(text)
        return cls(
            {module: rank for module, rank, _, _ in rows},
            {module: ModuleShape(d_in, d_out) for module, _, d_in, d_out in rows},
        )


class Columns(NamedTuple):
    """Where some adapters lie, column by column: no loop over adapters for each of many modules.

    Attributes:
        names: N of them.
        segments: (N,) long.
        positions: in their segment; (N,) long.
        layouts: (N,) long.
    """

    names: tuple[str, ...]
    segments: Tensor
    positions: Tensor
    layouts: Tensor

    @classmethod
    def of(cls, rows: Sequence[AdapterRow]) -> Columns:
        """Returns the columns of some rows."""
        columns = (
            [getattr(row, name) for row in rows] for name in ("segment", "position", "layout")
        )
        tensors = (torch.tensor(column, dtype=torch.long) for column in columns)
        return cls(tuple(row.name for row in rows), *tensors)

    def where(self, mask: Tensor) -> Columns:
        """Returns those of a mask; (N,) bool."""
        if mask.all():
            return self  # and its names: stacks of all modules share one tuple
        names = tuple(self.names[i] for i in mask.nonzero()[:, 0].tolist())
        return Columns(names, self.segments[mask], self.positions[mask], self.layouts[mask])


class MixtureRow(NamedTuple):
    """One passage's mixture of latent adapters, in the manifest's order of columns."""

    id: int
    name: str
    document_id: str | None
    weights: bytes
    metadata: str
    created: int


class Contents(NamedTuple):
    """Everything live at one generation, read in one transaction."""

    generation: int
    n_removed: int
    adapters: list[AdapterRow]
    segments: dict[int, SegmentRow]
    layouts: dict[int, Layout]
    mixtures: list[MixtureRow]
