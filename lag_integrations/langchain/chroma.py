"""A Chroma collection as a LangChain vector store, true to its documents, of any size."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langchain_chroma import Chroma
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings

from lag_engine import LagError
from lag_integrations.chroma import (
    Entry,
    become_writer,
    check_ids,
    open_client,
    refusals,
    replace_entries,
)
from lag_integrations.chroma import open_collection as open_raw
from lag_integrations.embedding_model import EmbeddingModel

if TYPE_CHECKING:
    from chromadb.api import ClientAPI

ELSEWHERE = ("host", "port", "headers", "ssl", "client_settings", "tenant", "database")
"""What the stock store may be opened by, and this one leaves to `open_client`."""


class LAGChroma(Chroma):
    """LangChain's Chroma, in cosine space, without its traps.

    Adding documents replaces those of the same ids, metadata and all, in batches that the client
    takes. The collection knows which embedding model made its vectors, and another is refused.
    What a reader in another process may rely on is said in `lag_integrations.chroma`.

    Args:
        collection_name: 3 to 512 letters, digits, '.', '_' or '-'.
        embedding_function: makes the vectors of documents and queries.
        client: from `open_client`, or any other.
        persist_directory: the folder of this process's client, in place of `client`.
        embedding_model: the name, with or without revision, of who makes the vectors; None asks the
            embeddings for it.
        options: of the stock store.

    Raises:
        LagError: neither or both of client and folder are given, the name is not legal, the
            embedding model is unknown, or the collection was made in another space or by another
            embedding model.
    """

    def __init__(
        self,
        collection_name: str,
        embedding_function: Embeddings,
        *,
        client: ClientAPI | None = None,
        persist_directory: str | Path | None = None,
        embedding_model: EmbeddingModel | str | None = None,
        **options: Any,
    ) -> None:
        elsewhere = [name for name in ELSEWHERE if options.pop(name, None)]
        if (client is None) == (persist_directory is None) or elsewhere:
            raise LagError(
                "Expected either `client` or `persist_directory`",
                f"found {', '.join(elsewhere) or 'neither' if client is None else 'both'}",
                "Open a client with lag_integrations.chroma.open_client(path) or (url=...)",
            )
        if client is None:
            assert persist_directory is not None
            client = open_client(persist_directory)
        self._embedding_model = _model_of(embedding_function, embedding_model)
        open_raw(client, collection_name, embedding=self._embedding_model)
        given = {name: value for name, value in options.items() if value is not None}
        super().__init__(collection_name, embedding_function, client=client, **given)

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Puts the texts in, in place of those of the same ids; returns the ids.

        What stands there already, unchanged and by the same revision of the embedding model, is not
        embedded again.

        Args:
            texts: any number.
            metadatas: one for each text.
            ids: one for each text; new ones where there is none.
            kwargs: taken for the sake of the stock store, without effect.

        Raises:
            LagError: an id is repeated, a vector has another dimension than the collection's,
                metadata cannot be stored, or another process writes the folder.
        """
        contents = list(texts)
        names = [name or str(uuid.uuid4()) for name in ids or [""] * len(contents)]
        notes: Sequence[dict[str, Any]] = metadatas or [{}] * len(contents)
        check_ids(names)
        kept = self._unchanged(names, contents, notes)
        rows = [i for i, name in enumerate(names) if name not in kept]
        assert self._embedding_function is not None
        vectors = self._embedding_function.embed_documents([contents[i] for i in rows])
        entries = [
            Entry(names[i], contents[i], vector, notes[i])
            for i, vector in zip(rows, vectors, strict=True)
        ]
        replace_entries(self._client, self._collection, entries)
        return names

    def _unchanged(
        self, ids: Sequence[str], texts: Sequence[str], metadatas: Sequence[dict[str, Any]]
    ) -> set[str]:
        """The ids whose entries would become what they are."""
        if not self._embedding_model.revision:
            return set()
        notes = [{k: v for k, v in m.items() if v is not None} for m in metadatas]
        asked = dict(zip(ids, zip(texts, notes, strict=True), strict=True))
        size = self._client.get_max_batch_size()
        same: set[str] = set()
        for start in range(0, len(ids), size):
            batch = self.get_by_ids(ids[start : start + size])
            same |= {d.id for d in batch if d.id and asked[d.id] == (d.page_content, d.metadata)}
        return same

    def update_documents(self, ids: list[str], documents: list[Document]) -> None:
        """Replaces the documents of these ids, metadata and all."""
        self.add_documents(documents, ids=ids)

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """The documents of these ids; the stock store fails for one without metadata."""
        found = self.get(ids=list(ids))
        parts = zip(found["ids"], found["documents"], found["metadatas"], strict=True)
        return [Document(text, id=name, metadata=notes or {}) for name, text, notes in parts]

    def delete(self, ids: list[str] | None = None, **kwargs: Any) -> None:
        """Deletes the documents of these ids, or those that a `where` filter names."""
        become_writer(self._client)
        super().delete(ids, **kwargs)

    def reset_collection(self) -> None:
        """Empties the collection; the stock store's would come back in another space."""
        self.delete_collection()
        self._chroma_collection = open_raw(
            self._client, self._collection_name, embedding=self._embedding_model
        )

    def similarity_search_with_score(
        self, *args: Any, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """See `Chroma`; raises LagError if the query's vector has another dimension."""
        with refusals(self._collection_name):
            return super().similarity_search_with_score(*args, **kwargs)

    def similarity_search_by_vector(self, *args: Any, **kwargs: Any) -> list[Document]:
        """See `Chroma`; raises LagError if the vector has another dimension."""
        with refusals(self._collection_name):
            return super().similarity_search_by_vector(*args, **kwargs)

    def max_marginal_relevance_search_by_vector(self, *args: Any, **kwargs: Any) -> list[Document]:
        """See `Chroma`; raises LagError if the vector has another dimension."""
        with refusals(self._collection_name):
            return super().max_marginal_relevance_search_by_vector(*args, **kwargs)

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        # Cosine similarity; LangChain warns about any outside 0 to 1, rounding errors included.
        return lambda distance: min(1.0, max(0.0, 1.0 - distance))


def open_collection(
    client: ClientAPI,
    name: str,
    embeddings: Embeddings,
    *,
    embedding_name: str | None = None,
    embedding_revision: str = "",
) -> LAGChroma:
    """The client's collection as a LangChain vector store; made, in cosine space, if it is new.

    Args:
        client: from `lag_integrations.chroma.open_client`, of which a process has one per folder.
        name: of the collection; 3 to 512 letters, digits, '.', '_' or '-'.
        embeddings: make the vectors.
        embedding_name: of the embedding model, kept with the collection; None asks the embeddings.
        embedding_revision: of the embedding model.

    Raises:
        LagError: as `LAGChroma` does.
    """
    model = EmbeddingModel(embedding_name, embedding_revision) if embedding_name else None
    return LAGChroma(name, embeddings, client=client, embedding_model=model)


def index_documents(store: LAGChroma, documents: Sequence[Document]) -> int:
    """Puts the documents into the collection, replacing those of the same ids; returns how many.

    Running it again with the same documents changes nothing.

    Args:
        store: from `open_collection`.
        documents: each with an `id`.

    Raises:
        LagError: a document has no id, or two have the same.
    """
    unnamed = [d for d in documents if not d.id]
    if unnamed:
        raise LagError(
            "Expected documents with an id",
            f"found one without: {unnamed[0].page_content[:40]!r}",
            "Set `Document(id=...)`, so that indexing again replaces it",
        )
    return len(store.add_documents(list(documents)))


def _model_of(embeddings: Embeddings, given: EmbeddingModel | str | None) -> EmbeddingModel:
    if given is not None:
        return EmbeddingModel(given) if isinstance(given, str) else given
    own = getattr(embeddings, "embedding_model", None)
    if isinstance(own, EmbeddingModel):
        return own
    names = (getattr(embeddings, attribute, None) for attribute in ("model_name", "model"))
    name = next((name for name in names if isinstance(name, str) and name), None)
    if name is None:
        raise LagError(
            "Expected to know which model makes the vectors",
            f"found no name in {type(embeddings).__name__}",
            "Give embedding_name=..., so that another model is noticed later",
        )
    return EmbeddingModel(name)
