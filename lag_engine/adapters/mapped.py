"""A segment file as readers see it: mapped at once, read where it is used."""

from __future__ import annotations

import json
import mmap
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from lag_engine.adapters.factor_file import FactorFile
from lag_engine.adapters.families import Family
from lag_engine.adapters.held_pages import HeldPages
from lag_engine.adapters.segments import TYPE_NAMES, key_of
from lag_engine.adapters.spectral import SpectralForm
from lag_engine.adapters.stack import Block
from lag_engine.errors import LibraryCorruptError

_TYPES = {name: dtype for dtype, name in TYPE_NAMES.items()}


class _Place(NamedTuple):
    """Where a tensor lies in a file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    end: int


class Segment:
    """A reader of one segment file: memory-mapped, safe to use after the file was unlinked.

    The file is mapped at once, so that a reader keeps what it saw when a writer compacts; tensors
    are views of the map and cost memory only where they are read.

    Args:
        path: the file.
        is_mapped: whether factors are read through the map; see `FactorFile`.
        held: as for `FactorFile`.

    Raises:
        LibraryCorruptError: it is missing, or no whole segment.
    """

    def __init__(
        self, path: Path, *, is_mapped: bool = True, held: HeldPages | None = None
    ) -> None:
        self.path = path
        self._blocks: dict[str, Block] = {}
        try:
            self._file = FactorFile(path, is_mapped=is_mapped, held=held)
            self._places = _places(self._file.map)
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise LibraryCorruptError(
                f"Expected a readable segment of packed adapters at {path}",
                f"found: {error}",
                "run `verify` to see which adapters it held, then remove and add those again",
            ) from error

    def block(self, module: str) -> Block:
        """Returns the module's stacked tensors, mapped."""
        if module not in self._blocks:
            A, B, singular, arrow = (
                self._tensor(module, field) for field in ("A", "B", "singular", "arrow")
            )
            basis = self._tensor(module, "basis") if self._has(module, "basis") else None
            self._blocks[module] = Block(A, B, singular, arrow, self._file, basis)
        return self._blocks[module]

    @cached_property
    def family(self) -> Family | None:
        """What its adapters share; None where they share nothing."""
        modules = [key.removesuffix(key_of("", "basis")) for key in self._places]
        modules = [module for module in modules if self._has(module, "basis")]
        sums = {module: float(self._tensor(module, "sum")) for module in modules}
        bases = {module: self._tensor(module, "basis") for module in modules}
        return Family(sums, bases) if modules else None

    def rows(self, module: str, positions: Tensor) -> Tensor:
        """Returns the rows of the adapters at these positions, in the module's block."""
        return torch.searchsorted(self._tensor(module, "slots"), positions)  # slots ascend

    def expect(self, module: str, position: int) -> None:
        """Has one adapter's factors for the module fetched from disk, without waiting for them."""
        self.block(module).expect(self.rows(module, torch.tensor([position])))

    def form(
        self, module: str, position: int, rank: int, *, as_stored: bool = False
    ) -> SpectralForm:
        """Returns one adapter's factors for the module, without padding.

        With `as_stored`, those of a family's member are in its family's basis.
        """
        block = self.block(module)
        block = block.in_basis() if as_stored else block
        row = self.rows(module, torch.tensor([position]))
        A, B, singular = (block.read(field, row)[0, :rank] for field in ("A", "B", "singular"))
        return SpectralForm(A, B, singular)

    def _has(self, module: str, field: str) -> bool:
        return key_of(module, field) in self._places

    def _tensor(self, module: str, field: str) -> Tensor:
        place = self._places.get(key_of(module, field))
        if place is None:
            raise LibraryCorruptError(
                f"Expected the adapters of {module} in {self.path}",
                "found a segment without them",
                "run `verify`; restore the file, or remove and add its adapters again",
            )
        count = (place.end - place.start) // place.dtype.itemsize
        flat = torch.frombuffer(self._file.map, dtype=place.dtype, count=count, offset=place.start)
        return flat.view(place.shape)


def _places(file: mmap.mmap) -> dict[str, _Place]:
    """Reads the header of a safetensors file; raises ValueError where the file is cut short."""
    data = 8 + int.from_bytes(file[:8], "little")
    places = {}
    for key, entry in json.loads(file[8:data]).items():
        start, end = (data + offset for offset in entry["data_offsets"])
        place = _Place(_TYPES[entry["dtype"]], tuple(entry["shape"]), start, end)
        if place.end > len(file):
            raise ValueError(f"a file of {len(file):,} bytes instead of {place.end:,} or more")
        places[key] = place
    return places
