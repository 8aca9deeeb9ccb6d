"""How segments come to be: a batch of newcomers, or everything live packed anew.

Both write files that nobody refers to and only then commit one transaction that does.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from lag_engine.adapters.families import Family, grouped
from lag_engine.adapters.info import refuse_taken
from lag_engine.adapters.joining import Newcomer
from lag_engine.adapters.manifest import Change, Manifest
from lag_engine.adapters.mixtures import LatentTable, MixtureSource
from lag_engine.adapters.rows import AdapterRow, Columns
from lag_engine.adapters.segments import (
    ROWS_AT_ONCE,
    ModuleRows,
    WrittenSegment,
    plan_segment,
    rows_of_forms,
    write_segment,
)
from lag_engine.adapters.snapshot import LibrarySnapshot
from lag_engine.adapters.stack import ModuleShape, ModuleStack
from lag_engine.errors import LibraryError

# Newcomers wait in memory until their segment is written; more than this becomes a second segment
# of the same transaction.
_SEGMENT_BYTES = 1 << 28


class Batch:
    """What joins and goes in one change: all of it, or nothing.

    Args:
        manifest: of the library.
        folder: of its segments.
        before: what is in it.
        dtype: of stored factors.
        replace: a newcomer takes the place of the live adapter of its name.

    Attributes:
        shapes: widths of every module that is in the library, newcomers included.
    """

    def __init__(
        self,
        manifest: Manifest,
        folder: Path,
        before: LibrarySnapshot,
        dtype: torch.dtype,
        *,
        replace: bool = False,
    ) -> None:
        self._manifest = manifest
        self._folder = folder
        self._dtype = dtype
        self._before = before
        self._replace = replace
        self._names: set[str] = set()
        self._gone: set[str] = set()
        self._latents: dict[str, tuple[str, ...]] = {}
        self._mixtures: list[dict[str, object]] = []
        self.shapes: dict[str, ModuleShape] = before.modules()
        self._pending: list[Newcomer] = []
        self._n_waiting = 0  # bytes
        self._families = list(before.families())
        self._segments: list[WrittenSegment] = []
        self._places: list[tuple[Newcomer, int, int]] = []  # in which segment, at which position

    def refuse_taken(self, name: str) -> None:
        """Raises DuplicateAdapterError if a newcomer or a live adapter that stays has the name."""
        refuse_taken(name, self._names, where="in this batch")
        if not self._replace and name not in self._gone:
            refuse_taken(name, self._before, where="in the library")

    def add(self, newcomer: Newcomer) -> None:
        """Takes an adapter in; writes a segment once enough have gathered."""
        name = str(newcomer.values["name"])
        self._claim(name)
        if newcomer.values["kind"] == "latent":
            self._latents[name] = tuple(newcomer.layout.ranks)
        self.shapes |= newcomer.layout.shapes
        self._pending.append(newcomer)
        self._n_waiting += newcomer.n_bytes
        if self._n_waiting >= _SEGMENT_BYTES:
            self._flush()

    def renew_latents(self, newcomers: Sequence[Newcomer]) -> None:
        """Takes in latent adapters in place of all that are there."""
        self._gone.update(self._before.latents.names)
        for newcomer in newcomers:
            self.add(newcomer)

    def mix(self, source: MixtureSource) -> str:
        """Takes in a mixture of the latent adapters; none may join after it. Returns its name."""
        name = source.resolved_name()
        self._claim(name)
        self._mixtures.append(
            {
                "name": name,
                "document_id": source.document_id,
                "weights": self._table.pack(source),
                "metadata": source.metadata_json(),
                "created": int(time.time()),
            }
        )
        return name

    def remove(self, name: str) -> None:
        """Takes an adapter or a mixture out; raises AdapterNotFoundError."""
        self._gone.add(self._before.info(name).name)

    def commit(self) -> list[str]:
        """Writes what is left and commits; returns the adapters' names in joining order.

        Raises:
            LibraryError: mixtures would stay while the latent adapters change.
        """
        self._refuse_stranded()
        if self._pending:
            self._flush()
        names = []
        with self._manifest.change() as change:
            self._take_out(change)
            if self._families:
                change.hold_families()
            segments = [change.insert_segment(*written) for written in self._segments]
            for newcomer, index, position in self._places:
                place = {"segment": segments[index], "position": position}
                place["layout"] = change.insert_layout(newcomer.layout)
                change.insert_adapter({**newcomer.values, **place})
                names.append(str(newcomer.values["name"]))
            for values in self._mixtures:
                change.insert_mixture(values)
        return names

    def _claim(self, name: str) -> None:
        self.refuse_taken(name)
        self._names.add(name)
        if name in self._before:
            self._gone.add(name)

    @cached_property
    def _table(self) -> LatentTable:
        """The latent adapters there will be."""
        stay = self._before.latents.held.items()
        latents = {name: modules for name, modules in stay if name not in self._gone}
        return LatentTable({**latents, **self._latents})

    def _refuse_stranded(self) -> None:
        """Mixtures know latent adapters by their places, which must not change under them."""
        stay = self._before.mixtures.keys() - self._gone
        if stay and (self._latents or self._gone.intersection(self._before.latents.names)):
            raise LibraryError(
                "Expected latent adapters to change only together with all that mix them",
                f"found {len(stay)} mixtures that would stay, such as {min(stay)!r}",
                "remove these first, or encode all passages anew",
            )

    def _take_out(self, change: Change) -> None:
        for name in self._gone:
            if name in self._before.mixtures:
                change.delete_mixture(self._before.mixtures[name].id)
            else:
                change.mark_removed(self._before.row(name).id)

    def _flush(self) -> None:
        places: dict[int, tuple[Newcomer, int, int]] = {}
        batch = [(newcomer.sums, newcomer.forms) for newcomer in self._pending]
        founders = {at for at, newcomer in enumerate(self._pending) if newcomer.is_founder}
        for family, members in grouped(batch, self._families, founders=founders):
            joining = {index: self._pending[index] for index in members}
            if family is not None and members:
                joining = {i: joining[i].of(family, forms) for i, forms in members.items()}
                self._families = [f for f in self._families if f is not family] + [family]
            places |= self._write(joining, family)
        self._places += [places[index] for index in sorted(places)]
        self._pending, self._n_waiting = [], 0

    def _write(
        self, joining: dict[int, Newcomer], family: Family | None
    ) -> dict[int, tuple[Newcomer, int, int]]:
        """Writes a segment; returns who is in it, and where."""
        if not joining:
            return {}
        indices = list(joining)
        order = _by_kind([str(newcomer.values["kind"]) for newcomer in joining.values()])
        inside = [indices[at] for at in order]
        forms = [joining[index].forms for index in inside]
        plans = plan_segment(rows_of_forms(forms), dtype=self._dtype, family=family)
        path = self._folder / _file_name(self._manifest, ahead=len(self._segments))
        self._segments.append(write_segment(path, plans))
        # The factors are on disk from here on; only what the manifest needs is kept.
        return {
            index: (joining[index]._replace(forms={}), len(self._segments) - 1, position)
            for position, index in enumerate(inside)
        }


def pack(manifest: Manifest, folder: Path, before: LibrarySnapshot, dtype: torch.dtype) -> None:
    """Writes all live adapters anew, those of a family into one segment and all others into one.

    Memory stays small.
    """
    written: list[tuple[WrittenSegment, list[AdapterRow]]] = []
    for family in (None, *before.families()):
        rows = [row for row in before.rows() if before.is_of(row, family)]
        rows = [rows[index] for index in _by_kind([row.kind for row in rows])]
        if rows:
            modules = dict.fromkeys(m for row in rows for m in before.layout(row).ranks)
            plans = [_live_rows(before, module, rows, family) for module in sorted(modules)]
            path = folder / _file_name(manifest, ahead=len(written))
            laid = plan_segment(plans, dtype=dtype, family=family)
            written.append((write_segment(path, laid), rows))
    with manifest.change() as change:
        for segment_file, rows in written:
            segment = change.insert_segment(*segment_file)
            for position, row in enumerate(rows):
                change.move(row.id, segment=segment, position=position)
        change.purge()


def _live_rows(
    before: LibrarySnapshot, module: str, rows: Sequence[AdapterRow], family: Family | None
) -> ModuleRows:
    positions = [i for i, row in enumerate(rows) if module in before.layout(row).ranks]
    # The kind does not matter here: both are packed side by side.
    stack = before.stack_of(module, "task", Columns.of(rows))
    if family is not None:
        assert stack.shared is not None
        stack = stack.shared.stack
    shape = ModuleShape(stack.d_in, stack.d_out)
    return ModuleRows(module, positions, stack.rank, shape, lambda field: _chunks(stack, field))


def _chunks(stack: ModuleStack, field: str) -> Iterable[Tensor]:
    for rows in torch.arange(len(stack)).split(ROWS_AT_ONCE):
        if field in ("arrow", "singular"):
            yield getattr(stack, field)[rows]
        else:
            yield stack.A(rows) if field == "A" else stack.B(rows)


def _by_kind(kinds: list[str]) -> list[int]:
    """Joining order within a kind, one kind after the other: each is one run of rows, a view."""
    return sorted(range(len(kinds)), key=lambda index: kinds[index])


def _file_name(manifest: Manifest, *, ahead: int) -> str:
    """A name that no segment ever had: a slow reader must not find another file under it."""
    return f"{manifest.last_segment + 1 + ahead:04d}.safetensors"
