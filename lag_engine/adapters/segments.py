"""Segments: packed safetensors files that hold the stacked factors of many adapters.

A segment is written once and never changed. For each module it holds four tensors (`A`, `B`,
`singular`, `arrow`; see `Block`) and `slots`, the segment positions of the stacked rows. The
arrow vectors of all modules lie together, so that scanning them never reads a factor. A segment of
a family also holds each module's `basis`, and the `sum` of its lora_A (see `families.py`).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lag_engine.adapters.families import Family
from lag_engine.adapters.spectral import SpectralForm
from lag_engine.adapters.stack import ModuleShape

TYPE_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
}
_HASH_CHUNK = 1 << 22
_ALIGNMENT = 4096
ROWS_AT_ONCE = 64
"""Adapters of one module that are brought together in memory while a file is written."""
_SEPARATOR = "::"
FACTORS = (f"{_SEPARATOR}A", f"{_SEPARATOR}B")
"""How the keys of factors end."""


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
    unnamed = path.with_suffix(".partial")
    digest = hashlib.sha256()
    with unnamed.open("wb") as file:
        for piece in _pieces(plans):
            file.write(piece)
            digest.update(piece)
        n_bytes = file.tell()
        file.flush()
        os.fsync(file.fileno())
    unnamed.replace(path)
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


def memory_of(tensor: Tensor) -> memoryview:
    """Returns the tensor's memory, row-major; a copy only where it is laid out otherwise."""
    raw: Any = tensor.contiguous().view(torch.uint8).numpy(force=True)
    return memoryview(raw)


def _pieces(plans: Sequence[TensorPlan]) -> Iterator[bytes | memoryview]:
    yield _header(plans)
    for plan in plans:
        n_written = 0
        for part in plan.parts():
            piece = memory_of(part.to(plan.dtype))
            n_written += piece.nbytes
            yield piece
        assert n_written == _n_bytes(plan), f"parts of {plan.name} do not fill its shape"


def _header(plans: Sequence[TensorPlan]) -> bytes:
    entries: dict[str, object] = {}
    offset = 0
    for plan in plans:
        end = offset + _n_bytes(plan)
        entries[plan.name] = {
            "dtype": TYPE_NAMES[plan.dtype],
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
    """One module's adapters, about to be written.

    Attributes:
        module: full dotted path.
        positions: segment position of each row; n of them.
        rank: the highest among the rows.
        shape: widths of the module.
        parts: a field of `Block` to tensors that fill it along axis 0, padded to the rank.
    """

    module: str
    positions: Sequence[int]
    rank: int
    shape: ModuleShape
    parts: Callable[[str], Iterable[Tensor]]


def rows_of_forms(forms: Sequence[Mapping[str, SpectralForm]]) -> list[ModuleRows]:
    """Returns new adapters grouped by module; position in the segment = index in `forms`."""
    positions: dict[str, list[int]] = {}
    for position, adapter in enumerate(forms):
        for module in adapter:
            positions.setdefault(module, []).append(position)
    return [
        _rows_of_module(module, at, [forms[position][module] for position in at])
        for module, at in sorted(positions.items())
    ]


def _rows_of_module(module: str, positions: list[int], forms: list[SpectralForm]) -> ModuleRows:
    rank = max(form.rank for form in forms)
    shape = ModuleShape(forms[0].A.shape[1], forms[0].B.shape[1])

    def parts(field: str) -> Iterator[Tensor]:
        for start in range(0, len(forms), ROWS_AT_ONCE):
            some = forms[start : start + ROWS_AT_ONCE]
            yield torch.stack([_row(form, field, rank) for form in some])

    return ModuleRows(module, positions, rank, shape, parts)


def _row(form: SpectralForm, field: str, rank: int) -> Tensor:
    """Returns one adapter's row of a field of `Block`."""
    if field == "arrow":
        return form.A[0]
    rows: Tensor = getattr(form, field)
    missing = rank - form.rank
    return rows if not missing else torch.cat([rows, rows.new_zeros(missing, *rows.shape[1:])])


def plan_segment(
    modules: Iterable[ModuleRows], *, dtype: torch.dtype, family: Family | None = None
) -> list[TensorPlan]:
    """Lays out a segment file.

    Args:
        modules: what to write, module by module.
        dtype: of the factors and arrow vectors; singular values are float32 always.
        family: what all its adapters share, if they do.

    Returns:
        The tensors in file order: wide types first, so that every tensor is aligned; among equals
        the arrow vectors of all modules before the first factor.
    """
    plans = [plan for rows in modules for plan in _plan_module(rows, dtype)]
    plans += [] if family is None else _plan_family(family, dtype)
    return sorted(plans, key=lambda plan: (-plan.dtype.itemsize, _is_factor(plan)))


def _is_factor(plan: TensorPlan) -> bool:
    return plan.name.endswith(FACTORS)


def _plan_module(rows: ModuleRows, dtype: torch.dtype) -> list[TensorPlan]:
    n, (d_in, d_out) = len(rows.positions), rows.shape
    fields: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {
        "arrow": (dtype, (n, d_in)),
        "singular": (torch.float32, (n, rows.rank)),
        "A": (dtype, (n, rows.rank, d_in)),
        "B": (dtype, (n, rows.rank, d_out)),
    }
    slots = torch.tensor(list(rows.positions))  # (n,)
    return [
        TensorPlan(key_of(rows.module, "slots"), torch.int64, (n,), lambda: [slots]),
        *(
            TensorPlan(key_of(rows.module, field), kind, shape, partial(rows.parts, field))
            for field, (kind, shape) in fields.items()
        ),
    ]


def _plan_family(family: Family, dtype: torch.dtype) -> Iterator[TensorPlan]:
    for module, basis in family.bases.items():
        sums = torch.tensor([family.sums[module]], dtype=torch.float64)
        for field, part in (("sum", sums), ("basis", basis.to(dtype))):
            parts = partial(_whole, part)
            yield TensorPlan(key_of(module, field), part.dtype, tuple(part.shape), parts)


def _whole(part: Tensor) -> list[Tensor]:
    return [part]


def key_of(module: str, field: str) -> str:
    """Returns the name of a module's tensor in a segment file."""
    return f"{module}{_SEPARATOR}{field}"
