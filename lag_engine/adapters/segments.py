"""Segments: packed safetensors files that hold the stacked factors of many adapters.

A segment is written once and never changed. For each module it holds four tensors (`A`, `B`,
`singular`, `arrow`; see `Block`) and `slots`, the segment positions of the stacked rows. The
arrow vectors of all modules lie together, so that scanning them never reads a factor.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn import functional

from lag_engine.adapters.spectral import SpectralForm
from lag_engine.adapters.stack import Block, ModuleShape
from lag_engine.errors import LibraryCorruptError

_TYPE_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
}
_HASH_CHUNK = 1 << 22
_ALIGNMENT = 4096
_SEPARATOR = "::"


class TensorPlan(NamedTuple):
    """One tensor of a file to come: its shape, and the parts that fill it along axis 0."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    parts: Callable[[], Iterable[Tensor]]


class WrittenSegment(NamedTuple):
    """What the manifest keeps of a segment file."""

    file: str
    sha256: str
    n_bytes: int


def write_segment(path: Path, plans: Sequence[TensorPlan]) -> WrittenSegment:
    """Writes a safetensors file part by part, and makes it durable before it gets its name.

    The file appears under `path` whole or not at all; memory stays at one part.

    Args:
        path: the file's final place; must not exist.
        plans: the tensors, in file order.

    Returns:
        Name, hash and size of the file.
    """
    partial = path.with_suffix(".partial")
    digest = hashlib.sha256()
    with partial.open("wb") as file:
        for piece in _pieces(plans):
            file.write(piece)
            digest.update(piece)
        n_bytes = file.tell()
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
    sync_folder(path.parent)
    return WrittenSegment(path.name, digest.hexdigest(), n_bytes)


def sync_folder(folder: Path) -> None:
    """Makes renames and removals inside the folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def hash_file(path: Path) -> str:
    """Returns the file's SHA-256 in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_HASH_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def raw_bytes(tensor: Tensor) -> bytes:
    """Returns the tensor's memory, row-major."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _pieces(plans: Sequence[TensorPlan]) -> Iterator[bytes]:
    yield _header(plans)
    for plan in plans:
        n_written = 0
        for part in plan.parts():
            piece = raw_bytes(part.to(plan.dtype))
            n_written += len(piece)
            yield piece
        assert n_written == _n_bytes(plan), f"parts of {plan.name} do not fill its shape"


def _header(plans: Sequence[TensorPlan]) -> bytes:
    entries: dict[str, object] = {}
    offset = 0
    for plan in plans:
        end = offset + _n_bytes(plan)
        entries[plan.name] = {
            "dtype": _TYPE_NAMES[plan.dtype],
            "shape": list(plan.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    # The format allows trailing spaces: they put the first tensor on a page boundary.
    text += b" " * (-(len(text) + 8) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def _n_bytes(plan: TensorPlan) -> int:
    size = plan.dtype.itemsize
    for width in plan.shape:
        size *= width
    return size


class ModuleRows(NamedTuple):
    """One module's adapters, about to be written: widths, positions and lazy parts."""

    module: str
    positions: Sequence[int]
    rank: int
    shape: ModuleShape
    forms: Callable[[], Iterable[SpectralForm]]


def rows_of_forms(forms: Sequence[Mapping[str, SpectralForm]]) -> list[ModuleRows]:
    """Returns new adapters grouped by module; position in the segment = index in `forms`."""
    positions: dict[str, list[int]] = {}
    for position, adapter in enumerate(forms):
        for module in adapter:
            positions.setdefault(module, []).append(position)
    return [_module_rows(module, at, forms) for module, at in sorted(positions.items())]


def _module_rows(
    module: str, positions: list[int], forms: Sequence[Mapping[str, SpectralForm]]
) -> ModuleRows:
    rows = [forms[position][module] for position in positions]
    rank = max(len(form.singular) for form in rows)
    shape = ModuleShape(rows[0].A.shape[1], rows[0].B.shape[1])
    return ModuleRows(
        module, positions, rank, shape, lambda: (_padded(form, rank) for form in rows)
    )


def plan_segment(modules: Iterable[ModuleRows], *, dtype: torch.dtype) -> list[TensorPlan]:
    """Lays out a segment file.

    Args:
        modules: what to write, module by module.
        dtype: of the factors and arrow vectors; singular values are float32 always.

    Returns:
        The tensors in file order: wide types first, so that every tensor is aligned; among equals
        the arrow vectors of all modules before the first factor.
    """
    plans = [plan for rows in modules for plan in _plan_module(rows, dtype)]
    return sorted(plans, key=lambda plan: (-plan.dtype.itemsize, _is_factor(plan)))


def _is_factor(plan: TensorPlan) -> bool:
    return plan.name.endswith((_key("", "A"), _key("", "B")))


def _plan_module(rows: ModuleRows, dtype: torch.dtype) -> list[TensorPlan]:
    module, positions, rank, (d_in, d_out), forms = rows
    n = len(positions)
    return [
        TensorPlan(
            _key(module, "slots"), torch.int64, (n,), lambda: [torch.tensor(list(positions))]
        ),
        TensorPlan(
            _key(module, "arrow"), dtype, (n, d_in), lambda: (form.A[:, 0] for form in forms())
        ),
        TensorPlan(
            _key(module, "singular"),
            torch.float32,
            (n, rank),
            lambda: (form.singular for form in forms()),
        ),
        TensorPlan(_key(module, "A"), dtype, (n, rank, d_in), lambda: (f.A for f in forms())),
        TensorPlan(_key(module, "B"), dtype, (n, rank, d_out), lambda: (f.B for f in forms())),
    ]


def _key(module: str, field: str) -> str:
    return f"{module}{_SEPARATOR}{field}"


def _padded(form: SpectralForm, rank: int) -> SpectralForm:
    """One adapter as a stack of one, with zero rows up to the rank."""
    missing = rank - len(form.singular)
    a, b = (functional.pad(rows, (0, 0, 0, missing))[None] for rows in (form.A, form.B))
    return SpectralForm(a, b, functional.pad(form.singular, (0, missing))[None])


class Segment:
    """A reader of one segment file: memory-mapped, safe to use after the file was unlinked.

    The file is mapped at once, so that a reader keeps what it saw when a writer compacts; tensors
    are views of the map and cost memory only where they are read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._blocks: dict[str, Block] = {}
        self._slots: dict[str, dict[int, int]] = {}
        try:
            self._file = safe_open(path, framework="pt")
        except (OSError, SafetensorError) as error:
            raise LibraryCorruptError(
                f"Expected a readable segment of packed adapters at {path}",
                f"found: {error}",
                "run `verify` to see which adapters it held, then remove and add those again",
            ) from error

    def block(self, module: str) -> Block:
        """Returns the module's stacked tensors, mapped."""
        if module not in self._blocks:
            fields = (self._tensor(module, name) for name in ("A", "B", "singular", "arrow"))
            self._blocks[module] = Block(*fields)
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
        return SpectralForm(
            block.A[row, :rank], block.B[row, :rank], block.singular[row, :rank]
        )

    def _tensor(self, module: str, field: str) -> Tensor:
        try:
            tensor: Tensor = self._file.get_tensor(_key(module, field))
        except (OSError, SafetensorError) as error:
            raise LibraryCorruptError(
                f"Expected the adapters of {module} in {self.path}",
                f"found: {error}",
                "run `verify`; restore the file, or remove and add its adapters again",
            ) from error
        return tensor
