"""Chroma as both frameworks need it: cosine, one embedding model, any size, one writer.

What a reader may rely on: a process sees all that it wrote itself, and all that others had written
before it opened the folder. What another process writes later is seen by `get` at once, but by
`query` only after `close_client` and `open_client`, or this process's next own write; Chroma keeps
its vector index in memory. Processes that need more than that share a server: `open_client(url=)`.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from chromadb.errors import InvalidArgumentError

from lag_engine import LagError
from lag_integrations.chroma_client import become_writer as become_writer
from lag_integrations.chroma_client import close_client as close_client
from lag_integrations.chroma_client import open_client as open_client
from lag_integrations.embedding_model import EmbeddingModel as EmbeddingModel

if TYPE_CHECKING:
    from chromadb.api import ClientAPI
    from chromadb.api.models.Collection import Collection

NAME_KEY, REVISION_KEY = "lag_embedding", "lag_embedding_revision"
"""Metadata of a collection: which model made its vectors."""

ADAPTER_KEYS = ("adapter_id", "adapter_rev")
"""Metadata of an entry that must be scalar: LlamaIndex reads no lists."""

_writing = threading.Lock()


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
        with _writing, refusals(collection.name):
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
