"""The library's folder: an SQLite manifest beside packed, memory-mapped segments.

A change is first written to files that nobody refers to, made durable, and then committed to the
manifest in one transaction: after `kill -9` at any instant the library is what it was before or
after, and the next writer sweeps away what was left over. One process writes, any number read.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import RLock
from typing import NamedTuple

import torch

from lag_engine.adapters.held_pages import HeldPages
from lag_engine.adapters.lock import WriterLock
from lag_engine.adapters.manifest import Manifest
from lag_engine.adapters.mapped import Segment
from lag_engine.adapters.rows import Contents
from lag_engine.adapters.segments import hash_file
from lag_engine.adapters.snapshot import LibrarySnapshot
from lag_engine.adapters.writing import pack
from lag_engine.errors import LibraryCorruptError

SEGMENTS = "segments"
_LOCK = "writer.lock"


class VerifyReport(NamedTuple):
    """What `verify` read and found sound."""

    n_adapters: int
    n_segments: int
    n_bytes: int


class Store:
    """Files of one library, and the newest state read from them.

    Args:
        path: the library's folder.
        read_only: without it, the writer's lock is taken and leftovers are swept away.
        held: is given what must be closed.
        map_factors: whether factors are read through maps; see `FactorFile`.
        pages: bounds what this process holds of the segments; None for no bound.

    Attributes:
        manifest: what is in the library.
        segments: the folder of segment files.
    """

    def __init__(
        self,
        path: Path,
        *,
        read_only: bool,
        held: ExitStack,
        map_factors: bool,
        pages: HeldPages | None,
    ) -> None:
        self.path = path
        self.segments = path / SEGMENTS
        self.manifest = Manifest(path, read_only=read_only)
        held.callback(self.manifest.close)
        if not read_only:
            held.callback(WriterLock(path / _LOCK).release)
            # Once more, for what was held last is let go first: files before the lock.
            held.callback(self.manifest.close)
        self._map_factors, self._pages = map_factors, pages
        self._mapped: dict[int, Segment] = {}
        self._snapshot: LibrarySnapshot | None = None
        self._reading = RLock()
        self._writing = RLock()
        held.callback(self._forget)
        if not read_only:
            self.manifest.upgrade()
            self._sweep()

    def snapshot(self) -> LibrarySnapshot:
        """Returns the newest committed state; cheap as long as nothing changed."""
        with self._reading:
            if self._snapshot is None or self._snapshot.generation != self.manifest.generation:
                self._snapshot = self._load()
            return self._snapshot

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Holds off other threads' changes, and leaves no files behind where a change fails."""
        with self._writing:
            try:
                yield
            except BaseException:
                self._sweep()
                raise

    def pack(self, dtype: torch.dtype) -> int:
        """Packs everything live into one segment; returns the bytes that were freed."""
        before = self.snapshot()
        if len(before.segments) <= 1 + len(before.families()) and not before.n_removed:
            return 0
        n_before = self._n_bytes()
        pack(self.manifest, self.segments, before, dtype)
        self._sweep()
        return n_before - self._n_bytes()

    def verify(self) -> VerifyReport:
        """Reads everything anew; raises LibraryCorruptError naming all that differs."""
        with self._reading:
            snapshot, contents = self._load(), self.manifest.contents()
        problems = self.manifest.check_integrity() + self._broken_segments(contents)
        if not problems:
            problems = [
                f"adapter {row.name} has other factors than when it joined"
                for row in snapshot.rows()
                if snapshot.hash_stored(row.name) != row.sha256
            ]
            problems += _broken_mixtures(snapshot)
        if problems:
            raise LibraryCorruptError(
                f"Expected the library at {self.path} to hold what its manifest says",
                f"found: {'; '.join(problems)}",
                "restore the files from a copy, or remove these adapters and add them again",
            )
        return VerifyReport(len(snapshot), len(contents.segments), self._n_bytes())

    def _broken_segments(self, contents: Contents) -> list[str]:
        problems = []
        for segment in contents.segments.values():
            problem = self._check_file(segment.file, segment.n_bytes, segment.sha256)
            held = [row.name for row in contents.adapters if row.segment == segment.id]
            if problem:
                problems.append(f"{segment.file} (holds {', '.join(held)}) {problem}")
        return problems

    def _check_file(self, file: str, n_bytes: int, sha256: str) -> str | None:
        path = self.segments / file
        if not path.is_file():
            return "is missing"
        if path.stat().st_size != n_bytes:
            return f"has {path.stat().st_size:,} bytes instead of {n_bytes:,}"
        return None if hash_file(path) == sha256 else "has other contents than were written"

    def _load(self) -> LibrarySnapshot:
        """Maps all segments at once, so that a later compaction cannot take them away.

        A segment that vanished after the manifest was read belongs to a state that is gone: the
        newer one is read instead.
        """
        while True:
            contents = self.manifest.contents()
            segments = {key: self._map(key, contents) for key in contents.segments}
            is_whole = all(isinstance(found, Segment) for found in segments.values())
            if is_whole or contents.generation == self.manifest.generation:
                break
        self._mapped = {key: found for key, found in segments.items() if isinstance(found, Segment)}
        return LibrarySnapshot(contents, segments)

    def _map(self, key: int, contents: Contents) -> Segment | LibraryCorruptError:
        if key in self._mapped:
            return self._mapped[key]
        path = self.segments / contents.segments[key].file
        try:
            return Segment(path, is_mapped=self._map_factors, held=self._pages)
        except LibraryCorruptError as error:
            # Told when the segment is needed, so that its adapters can still be removed.
            return error

    def _forget(self) -> None:
        """Lets go of the maps; snapshots in use keep theirs."""
        with self._reading:
            self._snapshot, self._mapped = None, {}

    def _sweep(self) -> None:
        """Deletes files in the segment folder that the manifest does not name."""
        named = {segment.file for segment in self.manifest.contents().segments.values()}
        for path in self.segments.iterdir():
            if path.name not in named:
                path.unlink()

    def _n_bytes(self) -> int:
        return sum(row.n_bytes for row in self.manifest.contents().segments.values())


def _broken_mixtures(snapshot: LibrarySnapshot) -> list[str]:
    problems = []
    for name in snapshot.mixtures:
        try:
            snapshot.mixture(name)
        except LibraryCorruptError as error:
            problems.append(f"mixture {name}: {error.found}")
    return problems
