"""A segment file as readers see it: mapped at once, read where it is used."""

from __future__ import annotations

import json
import mmap
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from lag_engine.adapters.pages import FactorPages
from lag_engine.adapters.segments import FACTORS, TYPE_NAMES, key_of
from lag_engine.adapters.spectral import SpectralForm
from lag_engine.adapters.stack import Block
from lag_engine.errors import LibraryCorruptError

_TYPES = {name: dtype for dtype, name in TYPE_NAMES.items()}
# Linux refuses a private map larger than memory without it; Python names it from 3.13 on.
_NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)


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
        pages: is told which factors are read.

    Raises:
        LibraryCorruptError: it is missing, or no whole segment.
    """

    def __init__(self, path: Path, pages: FactorPages) -> None:
        self.path = path
        self._blocks: dict[str, Block] = {}
        self._slots: dict[str, dict[int, int]] = {}
        try:
            self._file = _map(path)
            self._places = _places(self._file)
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise LibraryCorruptError(
                f"Expected a readable segment of packed adapters at {path}",
                f"found: {error}",
                "run `verify` to see which adapters it held, then remove and add those again",
            ) from error
        starts = [place.start for key, place in self._places.items() if key.endswith(FACTORS)]
        self._factors = pages.map(self._file, start=min(starts, default=len(self._file)))

    def block(self, module: str) -> Block:
        """Returns the module's stacked tensors, mapped."""
        if module not in self._blocks:
            A, B, singular, arrow = (
                self._tensor(module, field) for field in ("A", "B", "singular", "arrow")
            )
            self._blocks[module] = Block(A, B, singular, arrow, self._factors)
        return self._blocks[module]

    def row(self, module: str, position: int) -> int:
        """Returns the row of the adapter at that position, in the module's block."""
        if module not in self._slots:
            slots = self._tensor(module, "slots").tolist()
            self._slots[module] = {slot: row for row, slot in enumerate(slots)}
        return self._slots[module][position]

    def form(self, module: str, position: int, rank: int) -> SpectralForm:
        """Returns one adapter's factors for the module, without padding; views of the map."""
        block = self.block(module)
        row = self.row(module, position)
        block.expect(torch.tensor([row]))
        return SpectralForm(block.A[row, :rank], block.B[row, :rank], block.singular[row, :rank])

    def _tensor(self, module: str, field: str) -> Tensor:
        place = self._places.get(key_of(module, field))
        if place is None:
            raise LibraryCorruptError(
                f"Expected the adapters of {module} in {self.path}",
                "found a segment without them",
                "run `verify`; restore the file, or remove and add its adapters again",
            )
        count = (place.end - place.start) // place.dtype.itemsize
        flat = torch.frombuffer(self._file, dtype=place.dtype, count=count, offset=place.start)
        return flat.view(place.shape)


def _map(path: Path) -> mmap.mmap:
    """Maps a whole file; nothing is written to the map, which torch would rather have writable."""
    with path.open("rb") as file:
        if hasattr(mmap, "MAP_PRIVATE"):
            flags, access = mmap.MAP_PRIVATE | _NO_RESERVE, mmap.PROT_READ | mmap.PROT_WRITE
            return mmap.mmap(file.fileno(), 0, flags=flags, prot=access)
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)


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
