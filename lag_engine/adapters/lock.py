"""One writer per library, told by an advisory lock that dies with its process."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from datetime import UTC, datetime
from pathlib import Path

from lag_engine.errors import LibraryLockedError


class WriterLock:
    """An exclusive lock on a file; taken when made, released by `release` or the process's end."""

    def __init__(self, path: Path) -> None:
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = _read_holder(self._handle)
            os.close(self._handle)
            raise LibraryLockedError(
                f"Expected to be the only writer of {path.parent}",
                f"found that {holder} writes it",
                "wait for it or close it, or open the library with read_only=True",
            ) from error
        _write_holder(self._handle)

    def release(self) -> None:
        """Lets the next writer in; the file stays."""
        os.ftruncate(self._handle, 0)
        os.close(self._handle)


def _write_holder(handle: int) -> None:
    since = datetime.now(UTC).isoformat(timespec="seconds")
    holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": since}
    os.ftruncate(handle, 0)
    os.pwrite(handle, json.dumps(holder).encode(), 0)


def _read_holder(handle: int) -> str:
    try:
        holder = json.loads(os.pread(handle, 4096, 0))
        where = "this process" if holder["pid"] == os.getpid() else f"process {holder['pid']}"
        return f"{where} on {holder['host']} (since {holder['since']})"
    except (ValueError, KeyError, TypeError):
        return "another process"
