"""The library's manifest: one SQLite database that says what is in the library.

A segment file counts only once a row here names it. Every committed change raises `generation`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import RLock
from typing import Any

from lag_engine.adapters.base_model import BaseModel
from lag_engine.adapters.connection import connect
from lag_engine.adapters.rows import AdapterRow, Contents, Layout, MixtureRow, SegmentRow
from lag_engine.adapters.schema import (
    FAMILIES_VERSION,
    FORMAT_VERSION,
    INSERT_ADAPTER,
    INSERT_MIXTURE,
    LIVE_ADAPTERS,
    LIVE_MIXTURES,
    NEXT_ID,
    READABLE,
    create_tables,
    upgrade_tables,
)
from lag_engine.adapters.stack import ModuleShape
from lag_engine.errors import LibraryCorruptError, LibraryError

FILE_NAME = "manifest.sqlite"


class Manifest:
    """A connection to the manifest; safe to share between threads."""

    def __init__(self, folder: Path, *, read_only: bool) -> None:
        self._path = folder / FILE_NAME
        if not self._path.is_file():
            raise LibraryError(
                f"Expected an adapter library at {folder}",
                f"found no {FILE_NAME} there",
                "check the path, or make one with AdapterLibrary.create or `lag library create`",
            )
        self._lock = RLock()
        self._db = connect(self._path, read_only=read_only)
        self._check_version()

    @staticmethod
    def create(folder: Path, base: BaseModel, *, dtype: str) -> None:
        """Makes an empty manifest; it appears whole or not at all."""
        partial = folder / f"{FILE_NAME}.partial"
        for leftover in folder.glob(f"{partial.name}*"):
            leftover.unlink()
        facts = {"dtype": dtype, "generation": "0", "base_model": base.name}
        facts["knows_shapes"] = "1" if base.shapes is not None else None
        with _closing(sqlite3.connect(partial)) as db, db:
            create_tables(db)
            kept = [(name, value) for name, value in facts.items() if value is not None]
            db.executemany("INSERT INTO facts VALUES (?, ?)", kept)
            db.executemany(
                "INSERT INTO base_modules VALUES (?, ?, ?, ?)",
                [
                    (module, *shape, module in base.transposed)
                    for module, shape in (base.shapes or {}).items()
                ],
            )
        partial.replace(folder / FILE_NAME)

    def close(self) -> None:
        """Closes the connection; closing twice is fine."""
        with self._lock:
            self._db.close()

    @property
    def generation(self) -> int:
        """The number of committed changes so far, other processes' included."""
        return int(self._fact("generation") or 0)

    @property
    def last_segment(self) -> int:
        """The highest segment id that was ever given."""
        rows = self._read("SELECT seq FROM sqlite_sequence WHERE name = 'segments'")
        return int(rows[0][0]) if rows else 0

    @property
    def dtype(self) -> str:
        """The dtype of stored factors."""
        return self._fact("dtype") or "float32"

    def base(self) -> BaseModel:
        """Returns what was known of the base model when the library was made."""
        rows = self._read("SELECT module, d_in, d_out, transposed FROM base_modules")
        shapes = {module: ModuleShape(d_in, d_out) for module, d_in, d_out, _ in rows}
        transposed = frozenset(module for module, _, _, is_transposed in rows if is_transposed)
        knows_shapes = self._fact("knows_shapes") is not None
        return BaseModel(self._fact("base_model"), shapes if knows_shapes else None, transposed)

    def contents(self) -> Contents:
        """Reads everything live, as of one moment."""
        with self._lock, self._transaction("DEFERRED"):
            generation = self.generation
            adapters = self._read(LIVE_ADAPTERS)
            mixtures = self._read(LIVE_MIXTURES) if self._version > 1 else []
            segments = self._read("SELECT id, file, sha256, n_bytes FROM segments")
            layouts = self._read("SELECT id, modules FROM layouts")
            removed = self._read("SELECT COUNT(*) FROM adapters WHERE is_removed")
        return Contents(
            generation,
            removed[0][0],
            [AdapterRow(*row) for row in adapters],
            {row[0]: SegmentRow(*row) for row in segments},
            {key: Layout.from_json(text) for key, text in layouts},
            [MixtureRow(*row) for row in mixtures],
        )

    def upgrade(self) -> None:
        """Brings an older format to the present one; for the one writer only."""
        with self._lock, self._transaction("IMMEDIATE"):
            if self._version < FORMAT_VERSION:
                upgrade_tables(self._db)

    def check_integrity(self) -> list[str]:
        """Returns what SQLite finds wrong with its own file; empty if nothing."""
        try:
            found = [str(row[0]) for row in self._read("PRAGMA integrity_check")]
        except sqlite3.DatabaseError as error:
            return [str(error)]
        return [] if found == ["ok"] else found

    @contextmanager
    def change(self) -> Iterator[Change]:
        """One atomic, durable change; an exception leaves the manifest as it was."""
        with self._lock, self._transaction("IMMEDIATE"):
            yield Change(self._db)
            self._db.execute(
                "UPDATE facts SET value = CAST(value AS INTEGER) + 1 WHERE name = 'generation'"
            )

    @contextmanager
    def _transaction(self, mode: str) -> Iterator[None]:
        self._db.execute(f"BEGIN {mode}")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    @property
    def _version(self) -> int:
        return int(self._read("PRAGMA user_version")[0][0])

    def _fact(self, name: str) -> str | None:
        rows = self._read("SELECT value FROM facts WHERE name = ?", (name,))
        return None if not rows else str(rows[0][0])

    def _read(self, query: str, values: Sequence[object] = ()) -> list[Any]:
        with self._lock:
            return self._db.execute(query, values).fetchall()

    def _check_version(self) -> None:
        try:
            version = self._version
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise LibraryCorruptError(
                f"Expected an SQLite manifest at {self._path}",
                f"found: {error}",
                "restore it from a copy, or build the library again",
            ) from error
        if version not in READABLE:
            self._db.close()
            raise LibraryError(
                f"Expected a library of format 1 to {max(READABLE)} at {self._path.parent}",
                f"found format {version}",
                "use the version of lag_engine that wrote it, or build the library again",
            )


class Change:
    """The statements of one transaction."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def hold_families(self) -> None:
        """Marks the library as one that versions without families cannot read."""
        self._db.execute(f"PRAGMA user_version = {FAMILIES_VERSION}")

    def insert_segment(self, file: str, sha256: str, n_bytes: int) -> int:
        """Adds a segment file; returns its id."""
        row = self._db.execute(
            "INSERT INTO segments (file, sha256, n_bytes) VALUES (?, ?, ?)",
            (file, sha256, n_bytes),
        )
        assert row.lastrowid is not None
        return row.lastrowid

    def insert_layout(self, layout: Layout) -> int:
        """Returns the id of the layout, which is added if it is new."""
        text = layout.to_json()
        self._db.execute("INSERT OR IGNORE INTO layouts (modules) VALUES (?)", (text,))
        found = self._db.execute("SELECT id FROM layouts WHERE modules = ?", (text,))
        return int(found.fetchone()[0])

    def insert_adapter(self, values: Mapping[str, object]) -> int:
        """Adds an adapter; returns its id, which gives its place in joining order."""
        return self._insert(INSERT_ADAPTER, values)

    def insert_mixture(self, values: Mapping[str, object]) -> int:
        """Adds a mixture; returns its id, which gives its place in joining order."""
        return self._insert(INSERT_MIXTURE, values)

    def delete_mixture(self, mixture: int) -> None:
        """Removes a mixture; it has no factors that anybody may still read."""
        self._db.execute("DELETE FROM mixtures WHERE id = ?", (mixture,))

    def rename_mixture(self, mixture: int, name: str) -> None:
        """Gives a mixture another name."""
        self._db.execute("UPDATE mixtures SET name = ? WHERE id = ?", (name, mixture))

    def rename(self, adapter: int, name: str) -> None:
        """Gives an adapter another name."""
        self._db.execute("UPDATE adapters SET name = ? WHERE id = ?", (name, adapter))

    def mark_removed(self, adapter: int) -> None:
        """Takes an adapter out of sight; `purge` reclaims its row."""
        self._db.execute("UPDATE adapters SET is_removed = 1 WHERE id = ?", (adapter,))

    def move(self, adapter: int, *, segment: int, position: int) -> None:
        """Says where an adapter's factors are now."""
        self._db.execute(
            "UPDATE adapters SET segment = ?, position = ? WHERE id = ?",
            (segment, position, adapter),
        )

    def purge(self) -> None:
        """Forgets removed adapters, and segments and layouts that nothing refers to."""
        self._db.execute("DELETE FROM adapters WHERE is_removed")
        self._db.execute("DELETE FROM segments WHERE id NOT IN (SELECT segment FROM adapters)")
        self._db.execute("DELETE FROM layouts WHERE id NOT IN (SELECT layout FROM adapters)")

    def _insert(self, statement: str, values: Mapping[str, object]) -> int:
        [new_id] = self._db.execute(NEXT_ID).fetchone()
        self._db.execute(statement, {**values, "id": new_id})
        return int(new_id)


@contextmanager
def _closing(db: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    try:
        yield db
    finally:
        db.close()
