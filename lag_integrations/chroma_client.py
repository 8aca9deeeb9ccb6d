"""The process's Chroma clients: one for each folder, which one process at a time may write."""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import chromadb
from chromadb.config import Settings

from lag_engine import LagError

if TYPE_CHECKING:
    from chromadb.api import ClientAPI

LOCK_FILE = "lag-writer.lock"

_lock = threading.RLock()
_clients: dict[Path, ClientAPI] = {}
_writing: dict[Path, int] = {}


def open_client(
    path: str | Path | None = None, *, url: str | None = None, settings: Settings | None = None
) -> ClientAPI:
    """The process's one client of a folder, however the path is spelt; or a client of a server.

    Args:
        path: of the folder; it is made.
        url: of a Chroma server, such as "http://localhost:8000"; instead of a path.
        settings: Chroma's own, for what is not said here.

    Raises:
        LagError: neither or both of path and url are given, or this process has the folder open
            with other settings.
    """
    if (path is None) == (url is None):
        raise LagError("Expected either a path or a url", f"found {path!r} and {url!r}", "Give one")
    if url is not None:
        return _server_client(url, settings)
    assert path is not None
    folder = Path(path).expanduser().resolve()
    with _lock:
        known = _clients.get(folder)
        if known is not None and settings is None:
            return known
        folder.mkdir(parents=True, exist_ok=True)
        try:
            client = chromadb.PersistentClient(str(folder), settings=settings)
        except ValueError as error:
            raise LagError(
                f"Expected one kind of client for the folder {folder} in this process",
                f"found it open with other settings ({error})",
                "Use the same settings everywhere, or `close_client` first",
            ) from error
        return _clients.setdefault(folder, client)


def close_client(path: str | Path) -> None:
    """Closes the folder's client, if it is open, and lets other processes write.

    Collections and stores that were opened from it cannot be used any more.
    """
    folder = Path(path).expanduser().resolve()
    with _lock:
        client = _clients.pop(folder, None)
        if client is not None:
            client.close()  # type: ignore[attr-defined]
        handle = _writing.pop(folder, None)
        if handle is not None:
            os.close(handle)


def become_writer(client: ClientAPI) -> None:
    """Makes this process the folder's one writer until `close_client` or its end.

    Raises:
        LagError: another process writes the folder.
    """
    settings = client.get_settings()
    if not settings.is_persistent:
        return
    folder = Path(settings.persist_directory).resolve()
    with _lock:
        if folder not in _writing:
            _writing[folder] = _locked(folder)


def _server_client(url: str, settings: Settings | None) -> ClientAPI:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise LagError(
            "Expected the url of a Chroma server, such as 'http://localhost:8000'",
            f"found {url!r}",
            "Start one with `chroma run --path FOLDER` and give its address",
        )
    port = parts.port or (443 if parts.scheme == "https" else 8000)
    try:
        return chromadb.HttpClient(
            parts.hostname, port, ssl=parts.scheme == "https", settings=settings
        )
    except ValueError as error:
        raise LagError(
            f"Expected a Chroma server at {url}",
            f"found none: {error}",
            "Start one with `chroma run --path FOLDER`",
        ) from error


def _locked(folder: Path) -> int:
    handle = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(handle, 32, 0).decode() or "another"
        os.close(handle)
        raise LagError(
            f"Expected to be the only process that writes the Chroma folder {folder}",
            f"found process {holder} writing it",
            "Let that one finish, or run `chroma run --path FOLDER` and open both by url",
        ) from error
    os.ftruncate(handle, 0)
    os.pwrite(handle, str(os.getpid()).encode(), 0)
    return handle
