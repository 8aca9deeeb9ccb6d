"""AdapterLibrary: the adapters of one base model, on disk.

A folder with an SQLite manifest and packed, memory-mapped segments. A change is first written to
files that nobody refers to, made durable, and then committed to the manifest in one transaction:
after `kill -9` at any instant the library is what it was before or after, and the next writer
sweeps away what was left over. One process writes, any number read.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import RLock
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import torch
from rich.console import Console
from rich.progress import track

from lag_engine.adapters.base_model import BaseModel, describe_base
from lag_engine.adapters.info import AdapterInfo, AdapterSource, checked_name
from lag_engine.adapters.joining import hash_forms, prepare
from lag_engine.adapters.lock import WriterLock
from lag_engine.adapters.manifest import FILE_NAME, Contents, Manifest
from lag_engine.adapters.peft_format import PeftAdapter, write_peft
from lag_engine.adapters.segments import Segment, hash_file, sync_folder
from lag_engine.adapters.snapshot import AdapterInfos, LibrarySnapshot, as_lora
from lag_engine.adapters.stack import AdapterKind, ModuleShape, ModuleStack
from lag_engine.adapters.writing import Batch, pack
from lag_engine.errors import LibraryCorruptError, LibraryError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
_SEGMENTS = "segments"
_LOCK = "writer.lock"


class VerifyReport(NamedTuple):
    """What `verify` read and found sound."""

    n_adapters: int
    n_segments: int
    n_bytes: int


class AdapterLibrary:
    """The adapters of one base model, on disk; see `create` and `open`.

    Reading methods see the newest committed state, other processes' changes included. Where
    several answers must belong together, take `snapshot()` once and ask that. Safe to share
    between threads; not to be carried over a fork.

    Attributes:
        path: the library's folder.
        is_read_only: whether changes are refused.
        dtype: of stored factors and arrow vectors.
    """

    def __init__(self, path: Path, *, read_only: bool) -> None:
        self.path = path
        self.is_read_only = read_only
        held = ExitStack()
        self._close = weakref.finalize(self, held.close)
        self._manifest = Manifest(path, read_only=read_only)
        held.callback(self._manifest.close)
        if not read_only:
            held.callback(WriterLock(path / _LOCK).release)
        self.dtype = _DTYPES[self._manifest.dtype]
        self._base = self._manifest.base()
        self._mapped: dict[int, Segment] = {}
        self._snapshot: LibrarySnapshot | None = None
        self._reading = RLock()
        self._writing = RLock()
        if not read_only:
            self._sweep()

    @classmethod
    def create(
        cls,
        path: str | Path,
        *,
        base_model: str | Path | PreTrainedModel | None,
        base_name: str | None = None,
        dtype: str = "float32",
    ) -> Self:
        """Makes an empty library and opens it for writing.

        Args:
            path: the folder; is created; must not hold a library.
            base_model: the model its adapters belong to: a folder, a hub id, the model itself, or
                None for "not known". Where the config is at hand (a folder, a cached hub id, a
                model), every adapter is checked against the model's modules and widths; else
                against the adapters that came before it, and the name.
            base_name: the name to note instead of the one `base_model` carries.
            dtype: "float32" (default), "float64", "bfloat16" or "float16".

        Raises:
            LibraryError: there is a library already, or the dtype is unknown.
            ModelError: `base_model` is a folder without a readable config.
        """
        path = Path(path)
        if dtype not in _DTYPES:
            known = ", ".join(_DTYPES)
            raise LibraryError(
                "Expected a dtype for stored factors", f"found {dtype!r}", f"pass one of {known}"
            )
        if (path / FILE_NAME).exists():
            raise LibraryError(
                f"Expected no library at {path} yet",
                "found one",
                "open it with AdapterLibrary.open, or choose another folder",
            )
        base = describe_base(base_model)
        (path / _SEGMENTS).mkdir(parents=True, exist_ok=True)
        Manifest.create(path, base._replace(name=base_name or base.name), dtype=dtype)
        sync_folder(path)
        return cls(path, read_only=False)

    @classmethod
    def open(cls, path: str | Path, *, read_only: bool = False) -> Self:
        """Opens a library.

        Args:
            path: its folder.
            read_only: many may read at once; without it, this is the one writer until `close`.

        Raises:
            LibraryError: there is no library, or another version of this package wrote it.
            LibraryLockedError: another writer has it open; the message says who.
            LibraryCorruptError: its manifest cannot be read.
        """
        return cls(Path(path), read_only=read_only)

    def close(self) -> None:
        """Lets go of files and lock; snapshots and stacks in use stay valid."""
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self.snapshot())

    def __contains__(self, name: object) -> bool:
        return name in self.snapshot()

    def __repr__(self) -> str:
        state = "" if self._close.alive else ", closed"
        return f"AdapterLibrary({str(self.path)!r}, base_model={self.base_model!r}{state})"

    @property
    def base_model(self) -> str | None:
        """The base model's name, as given when the library was made."""
        return self._base.name

    @property
    def base(self) -> BaseModel:
        """Name, module widths and shape fingerprint of the base model."""
        return self._base

    @property
    def generation(self) -> int:
        """The number of committed changes so far, also those of other processes."""
        self._require_open()
        return self._manifest.generation

    @property
    def fingerprint(self) -> str:
        """A hash of the present adapters in order: names, kinds, documents, factors."""
        return self.snapshot().fingerprint

    def snapshot(self) -> LibrarySnapshot:
        """Returns the newest committed state; cheap as long as nothing changed."""
        self._require_open()
        with self._reading:
            if self._snapshot is None or self._snapshot.generation != self._manifest.generation:
                self._snapshot = self._load()
            return self._snapshot

    def list(self, kind: AdapterKind | None = None) -> AdapterInfos:
        """Returns the adapters in joining order."""
        return self.snapshot().list(kind)

    def info(self, name: str) -> AdapterInfo:
        """Returns one adapter; raises AdapterNotFoundError."""
        return self.snapshot().info(name)

    def modules(self, kind: AdapterKind | None = None) -> dict[str, ModuleShape]:
        """Returns the modules that at least one adapter updates, with their widths."""
        return self.snapshot().modules(kind)

    def stack(self, module: str, kind: AdapterKind) -> ModuleStack:
        """Returns one module's adapters of one kind, stacked; see `LibrarySnapshot.stack`."""
        return self.snapshot().stack(module, kind)

    def add(
        self,
        source: str | Path | PeftAdapter,
        *,
        name: str | None = None,
        kind: AdapterKind = "task",
        document_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        revision: str | None = None,
        allow_pickle: bool = False,
        allow_other_base: bool = False,
    ) -> AdapterInfo:
        """Adds one adapter, or raises and leaves the library as it was.

        Args:
            source: a PEFT folder, a hub id, or an adapter in memory.
            name: by default the last part of the folder or hub id.
            kind: "task" or "knowledge".
            document_id: the document a knowledge adapter was made from.
            metadata: the owner's own notes; JSON.
            revision: branch, tag or commit of a hub id.
            allow_pickle: also read `adapter_model.bin`.
            allow_other_base: accept an adapter whose config names another base model, if its
                modules and widths fit.

        Raises:
            DuplicateAdapterError: the name is taken.
            AdapterFormatError: its files cannot be read.
            UnsupportedAdapterError: it cannot be applied exactly.
            AdapterMismatchError: it belongs to another base model.
            LibraryError: name, kind or metadata are not acceptable, or this is read-only.

        Warns:
            DeadAdapterWarning: its update is zero everywhere.
        """
        offer = AdapterSource(
            source, name, kind, document_id, metadata, revision, allow_pickle, allow_other_base
        )
        return self.add_many([offer], progress=False)[0]

    def add_many(
        self,
        sources: Iterable[AdapterSource | str | Path | PeftAdapter],
        *,
        progress: bool = True,
    ) -> AdapterInfos:
        """Adds many adapters in one change: all of them, or none.

        They share one segment (above 1 GiB, several), which is what makes opening fast.

        Args:
            sources: anything `add` takes; `AdapterSource` to say more than the source.
            progress: show a bar on standard error.

        Returns:
            The newcomers in joining order.

        Raises:
            LagError: as `add`, for the first adapter that is not acceptable.
        """
        with self._changing():
            batch = Batch(self._manifest, self.path / _SEGMENTS, self.snapshot(), self.dtype)
            for source in _tracked(sources, progress):
                offer = source if isinstance(source, AdapterSource) else AdapterSource(source)
                batch.refuse_taken(offer.resolved_name())
                batch.add(prepare(offer, self._base, batch.shapes, dtype=self.dtype))
            names = batch.commit()
        return [self.info(name) for name in names]

    def remove(self, name: str) -> None:
        """Removes an adapter; its room on disk comes back with `compact`.

        Raises:
            AdapterNotFoundError: there is none of that name.
        """
        with self._changing():
            row = self.snapshot().row(name)
            with self._manifest.change() as change:
                change.mark_removed(row.id)

    def rename(self, old: str, new: str) -> AdapterInfo:
        """Gives an adapter another name; its place in the order stays.

        Raises:
            AdapterNotFoundError: there is none of the old name.
            DuplicateAdapterError: the new name is taken.
            LibraryError: the new name cannot be one.
        """
        with self._changing():
            snapshot = self.snapshot()
            row = snapshot.row(old)
            if checked_name(new) == old:
                return snapshot.info(old)
            Batch(self._manifest, self.path, snapshot, self.dtype).refuse_taken(new)
            with self._manifest.change() as change:
                change.rename(row.id, new)
        return self.info(new)

    def compact(self) -> int:
        """Packs all adapters into one segment and deletes what was removed.

        Readers that hold the old files keep them until they look again.

        Returns:
            The bytes that were freed.
        """
        with self._changing():
            before = self.snapshot()
            if len(before.segments) <= 1 and not before.n_removed:
                return 0
            n_before = self._n_bytes()
            pack(self._manifest, self.path / _SEGMENTS, before, self.dtype)
            self._sweep()
            return n_before - self._n_bytes()

    def verify(self) -> VerifyReport:
        """Reads everything and compares it with the manifest's hashes.

        Raises:
            LibraryCorruptError: something differs; the message names the segments and adapters.
        """
        with self._reading:
            self._require_open()
            contents = self._manifest.contents()
            snapshot = self._load()
        problems = self._manifest.check_integrity()
        for segment in contents.segments.values():
            problem = self._check_file(segment.file, segment.n_bytes, segment.sha256)
            held = [row.name for row in contents.adapters if row.segment == segment.id]
            problems += [f"{segment.file} (holds {', '.join(held)}) {problem}"] if problem else []
        if not problems:
            problems = [
                f"adapter {row.name} has other factors than when it joined"
                for row in snapshot.rows()
                if hash_forms(snapshot.forms(row.name)) != row.sha256
            ]
        if problems:
            raise LibraryCorruptError(
                f"Expected the library at {self.path} to hold what its manifest says",
                f"found: {'; '.join(problems)}",
                "restore the files from a copy, or remove these adapters and add them again",
            )
        n_bytes = sum(segment.n_bytes for segment in contents.segments.values())
        return VerifyReport(len(snapshot), len(contents.segments), n_bytes)

    def export(self, name: str, folder: str | Path) -> None:
        """Writes an adapter as a PEFT folder, which PEFT loads with equal output.

        Raises:
            AdapterNotFoundError: there is none of that name.
            AdapterFormatError: the folder holds an adapter already.
        """
        snapshot = self.snapshot()
        row, modules = snapshot.row(name), as_lora(snapshot.forms(name))
        config = {
            "peft_type": "LORA",
            "fan_in_fan_out": self._base.transposed.issuperset(modules),
        }
        base_model = row.base_model or self.base_model
        write_peft(folder, PeftAdapter(modules, base_model, config, name))

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Holds off other threads' changes, and leaves no files behind where a change fails."""
        self._require_open()
        if self.is_read_only:
            raise LibraryError(
                "Expected a library that is open for writing",
                f"found {self.path} opened with read_only=True",
                "open it with AdapterLibrary.open(path)",
            )
        with self._writing:
            try:
                yield
            except BaseException:
                self._sweep()
                raise

    def _load(self) -> LibrarySnapshot:
        """Maps all segments at once, so that a later compaction cannot take them away.

        A segment that vanished after the manifest was read belongs to a state that is gone: the
        newer one is read instead.
        """
        while True:
            contents = self._manifest.contents()
            segments = {key: self._map(key, contents) for key in contents.segments}
            is_sound = not any(
                isinstance(found, LibraryCorruptError) for found in segments.values()
            )
            if is_sound or contents.generation == self._manifest.generation:
                break
        self._mapped = {key: s for key, s in segments.items() if isinstance(s, Segment)}
        return LibrarySnapshot(contents, segments)

    def _map(self, key: int, contents: Contents) -> Segment | LibraryCorruptError:
        if key in self._mapped:
            return self._mapped[key]
        try:
            return Segment(self.path / _SEGMENTS / contents.segments[key].file)
        except LibraryCorruptError as error:
            # Told when the segment is needed, so that its adapters can still be removed.
            return error

    def _check_file(self, file: str, n_bytes: int, sha256: str) -> str | None:
        path = self.path / _SEGMENTS / file
        if not path.is_file():
            return "is missing"
        if path.stat().st_size != n_bytes:
            return f"has {path.stat().st_size:,} bytes instead of {n_bytes:,}"
        return None if hash_file(path) == sha256 else "has other contents than were written"

    def _sweep(self) -> None:
        """Deletes files in the segment folder that the manifest does not name."""
        named = {segment.file for segment in self._manifest.contents().segments.values()}
        for path in (self.path / _SEGMENTS).iterdir():
            if path.name not in named:
                path.unlink()

    def _n_bytes(self) -> int:
        return sum(row.n_bytes for row in self._manifest.contents().segments.values())

    def _require_open(self) -> None:
        if not self._close.alive:
            raise LibraryError(
                "Expected an open library", f"found {self.path} closed", "open it again"
            )


def _tracked(
    sources: Iterable[AdapterSource | str | Path | PeftAdapter], progress: bool
) -> Iterable[AdapterSource | str | Path | PeftAdapter]:
    if not progress:
        return sources
    console = Console(stderr=True)
    return track(sources, description="Adding adapters", console=console)
