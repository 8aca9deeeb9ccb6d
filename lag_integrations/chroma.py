"""Chroma as both frameworks need it: cosine, one embedding model, any size, one writer.

What a reader may rely on: a process sees all that it wrote itself, and all that others had written
before it opened the folder. What another process writes later is seen by `get` at once, but by
`query` only after `close_client` and `open_client`, or this process's next own write; Chroma keeps
its vector index in memory. Processes that need more than that share a server: `open_client(url=)`.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

import chromadb
from chromadb.config import Settings
from chromadb.errors import InvalidArgumentError

from lag_engine import LagError
from lag_integrations.embedding_model import EmbeddingModel as EmbeddingModel

if TYPE_CHECKING:
    from chromadb.api import ClientAPI
    from chromadb.api.models.Collection import Collection

NAME_KEY, REVISION_KEY = "lag_embedding", "lag_embedding_revision"
"""Metadata of a collection: which model made its vectors."""

ADAPTER_KEYS = ("adapter_id", "adapter_rev")
"""Metadata of an entry that must be scalar: LlamaIndex reads no lists."""

LOCK_FILE = "lag-writer.lock"

_lock = threading.RLock()
_clients: dict[Path, ClientAPI] = {}
_writing: dict[Path, int] = {}


class Entry(NamedTuple):
    """What a collection holds of one passage.

    Attributes:
        id: unique in the collection.
        text: of the passage.
        vector: its embedding; (D).
        metadata: numbers, strings, booleans, or lists of one of these.
    """

    id: str
    text: str
    vector: Sequence[float]
    metadata: Mapping[str, Any]


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


def collection_name(wanted: str) -> str:
    """The wanted name if it is legal, else a legal one like it that no other name is made into."""
    if _is_legal(wanted):
        return wanted
    digest = hashlib.sha256(wanted.encode()).hexdigest()[:8]
    readable = re.sub(r"[^a-zA-Z0-9_-]+", "-", wanted).strip("-_")[:500]
    return f"{readable}-{digest}".lstrip("-")


def open_collection(client: ClientAPI, name: str, *, embedding: EmbeddingModel) -> Collection:
    """The client's collection of that name; made, in cosine space, if it is new.

    Chroma keeps a collection's space for ever and does not check who embedded its vectors, so both
    are checked here. It holds no embedding function: vectors are always handed in, and nothing is
    ever downloaded to make them.

    Args:
        client: from `open_client`, or any other.
        name: 3 to 512 letters, digits, '.', '_' or '-'; `collection_name` makes one of any text.
        embedding: the model whose vectors go in.

    Raises:
        LagError: the name is not legal, or the collection was made in another space or by another
            embedding model or revision.
    """
    if not _is_legal(name):
        raise LagError(
            "Expected a collection name of 3 to 512 letters, digits, '.', '_' or '-', which starts "
            "and ends with a letter or digit",
            f"found {name!r}",
            f"Use collection_name({name!r}), which is {collection_name(name)!r}",
        )
    made = {NAME_KEY: embedding.name}
    if embedding.revision:
        made[REVISION_KEY] = embedding.revision
    collection = client.get_or_create_collection(
        name,
        metadata=made,
        configuration={"hnsw": {"space": "cosine"}},
        embedding_function=None,
    )
    space = (collection.configuration_json.get("hnsw") or {}).get("space")
    notes = collection.metadata or {}
    found = EmbeddingModel(str(notes.get(NAME_KEY)), str(notes.get(REVISION_KEY) or ""))
    if space != "cosine" or not found.agrees_with(embedding):
        raise LagError(
            f"Expected the collection '{name}' in cosine space, embedded by '{embedding}'",
            f"found space '{space}', embedded by '{found}'",
            "Delete the collection and index again, or use another name",
        )
    return collection


def replace_entries(client: ClientAPI, collection: Collection, entries: Sequence[Entry]) -> int:
    """Puts the entries in, in place of those of the same ids; returns how many.

    Deletes first: Chroma's `add` would ignore a known id, and its `upsert` keep old metadata. Goes
    in batches of the size that the client takes. Any thread may call it; a query that comes between
    the two steps misses the batch's old entries.

    Args:
        client: the collection's.
        collection: from `open_collection`.
        entries: any number.

    Raises:
        LagError: an id is missing or repeated, a vector has another dimension than the
            collection's, metadata cannot be stored, or another process writes the folder.
    """
    check_ids([entry.id for entry in entries])
    for entry in entries:
        _check_metadata(entry)
    become_writer(client)
    size = client.get_max_batch_size()
    for start in range(0, len(entries), size):
        batch = entries[start : start + size]
        ids = [entry.id for entry in batch]
        with _lock, refusals(collection.name):
            _check_dimension(collection, batch)
            collection.delete(ids=ids)
            collection.add(
                ids=ids,
                documents=[entry.text for entry in batch],
                embeddings=[list(entry.vector) for entry in batch],  # type: ignore[arg-type]
                metadatas=[_present(entry.metadata) for entry in batch],  # type: ignore[misc]
            )
    return len(entries)


def check_ids(ids: Sequence[str]) -> None:
    """Raises LagError if an id is empty or repeated."""
    if not all(ids):
        raise LagError(
            "Expected documents with an id",
            f"found {sum(not i for i in ids)} without among {len(ids)}",
            "Give each its own, so that indexing again replaces it",
        )
    if len(set(ids)) < len(ids):
        raise LagError(
            "Expected one id per document",
            f"found {len(ids) - len(set(ids))} repeated among {len(ids)}",
            "Give each passage an id of its own",
        )


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


@contextmanager
def refusals(name: str) -> Iterator[None]:
    """Turns Chroma's refusal of a vector of the wrong dimension into a LagError."""
    try:
        yield
    except InvalidArgumentError as error:
        if "dimension" not in str(error):
            raise
        raise LagError(
            f"Expected vectors of the dimension that the collection '{name}' has",
            f"found others: {error}",
            "Embed with the model that made the collection, or index again under another name",
        ) from error


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


def _is_legal(name: str) -> bool:
    is_plain = re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9._-]{1,510}[a-zA-Z0-9]", name)
    is_address = re.fullmatch(r"\d+(\.\d+){3}", name)
    return bool(is_plain) and ".." not in name and not is_address


def _check_metadata(entry: Entry) -> None:
    for key, value in entry.metadata.items():
        items = value if isinstance(value, list) and key not in ADAPTER_KEYS else [value]
        kinds = {type(item) for item in items}
        scalar = kinds <= {str, int, float, bool, type(None)}
        if not scalar or len(kinds) != 1:
            raise LagError(
                "Expected metadata of strings, numbers, booleans, or lists of one of these (but "
                f"one string for {' and '.join(ADAPTER_KEYS)})",
                f"found {key}={value!r} in the document {entry.id!r}",
                "Leave it out, or store it as JSON text",
            )


def _present(metadata: Mapping[str, Any]) -> dict[str, Any] | None:
    """Chroma takes neither None as a value nor an empty mapping."""
    return {key: value for key, value in metadata.items() if value is not None} or None


def _check_dimension(collection: Collection, entries: Sequence[Entry]) -> None:
    """Before anything is deleted, so that a refusal leaves the collection as it was."""
    held = collection.get(limit=1, include=["embeddings"])["embeddings"]
    first = held[0] if held is not None and len(held) else entries[0].vector
    odd = [entry for entry in entries if len(entry.vector) != len(first)]
    if odd:
        raise InvalidArgumentError(
            f"a dimension of {len(odd[0].vector)} instead of {len(first)} for {odd[0].id!r}"
        )


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
