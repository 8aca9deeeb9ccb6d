"""Connections to the manifest's SQLite database."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from lag_engine.errors import LibraryCorruptError, LibraryError


def connect(path: Path, *, read_only: bool) -> sqlite3.Connection:
    """Opens the manifest's database for one writer, or for reading.

    Raises:
        LibraryCorruptError: the file is no database.
        LibraryError: the folder cannot be written.
    """
    if read_only and not os.access(path.parent, os.W_OK):
        return _connect_unwritable(path)
    if not os.access(path.parent, os.W_OK):
        raise LibraryError(
            "Expected a library that can be written",
            f"found that {path.parent} cannot be written",
            "open it with read_only=True, or copy it",
        )
    db = _open(f"{path.resolve().as_uri()}?mode=rw")
    if read_only:
        db.execute("PRAGMA query_only = 1")
        return db
    try:
        db.execute("PRAGMA journal_mode = WAL")
    except sqlite3.DatabaseError as error:
        db.close()
        raise LibraryCorruptError(
            f"Expected an SQLite manifest at {path}",
            f"found: {error}",
            "restore it from a copy, or build the library again",
        ) from error
    # FULL: a committed change survives a power cut, not only a crash.
    db.execute("PRAGMA synchronous = FULL")
    return db


def _connect_unwritable(path: Path) -> sqlite3.Connection:
    """Reads a library in a folder we may not write, such as an installed package.

    Reading in WAL mode needs a shared-memory file beside the database. Where there is none and we
    cannot make one, nobody writes either, and the file may be read as it is.
    """
    has_log = path.with_name(f"{path.name}-wal").exists()
    mode = "mode=ro" if has_log else "mode=ro&immutable=1"
    return _open(f"{path.resolve().as_uri()}?{mode}")


def _open(uri: str) -> sqlite3.Connection:
    return sqlite3.connect(
        uri, uri=True, isolation_level=None, check_same_thread=False, timeout=30.0
    )
