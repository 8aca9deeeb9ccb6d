"""A Chroma collection as the vector index of a `DocumentStore`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from lag_engine import IndexEntry
from lag_integrations.chroma import Entry, become_writer, open_collection, replace_entries
from lag_integrations.embedding_model import EmbeddingModel

if TYPE_CHECKING:
    from chromadb.api import ClientAPI


class Encoder(Protocol):
    """What makes vectors, such as `SentenceEncoder`."""

    @property
    def embedding_model(self) -> EmbeddingModel:
        """Its name and revision."""

    def embed_documents(self, texts: Sequence[str]) -> list[list[float]]:
        """One vector per text."""


class ChromaIndex:
    """Keeps a collection in step with a library: pass it to `DocumentStore(library, index=...)`.

    Entries carry `document_id`, `adapter_id` and `adapter_rev`, so that both frameworks' stores
    over the same collection find a passage's adapter, and see where it is stale.

    Args:
        client: from `open_client`.
        name: of the collection; made if it is new.
        encoder: makes the vectors.

    Raises:
        LagError: the collection was made by another embedding model, or in another space.
    """

    def __init__(self, client: ClientAPI, name: str, encoder: Encoder) -> None:
        self._client = client
        self._encoder = encoder
        self._collection = open_collection(client, name, embedding=encoder.embedding_model)

    def replace(self, entries: Sequence[IndexEntry]) -> int:
        """Puts entries in, in place of those of the same ids; returns how many."""
        vectors = self._encoder.embed_documents([entry.text for entry in entries])
        rows = [
            Entry(entry.id, entry.text, vector, entry.metadata)
            for entry, vector in zip(entries, vectors, strict=True)
        ]
        return replace_entries(self._client, self._collection, rows)

    def delete(self, ids: Sequence[str]) -> None:
        """Deletes entries; ids that the collection lacks do no harm."""
        become_writer(self._client)
        size = self._client.get_max_batch_size()
        for start in range(0, len(ids), size):
            self._collection.delete(ids=list(ids[start : start + size]))
