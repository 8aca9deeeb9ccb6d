"""A Chroma collection that stays true to its documents: cosine, no stale metadata, any size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from langchain_chroma import Chroma
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings

from lag_engine import LagError

if TYPE_CHECKING:
    from chromadb.api import ClientAPI


def open_collection(
    client: ClientAPI, name: str, embeddings: Embeddings, *, embedding_name: str
) -> Chroma:
    """The client's collection as a LangChain vector store; made, in cosine space, if it is new.

    Chroma keeps a collection's space for ever and does not check who embedded its vectors, so both
    are checked here.

    Args:
        client: a `PersistentClient`, of which a process should have one per folder, or another.
        name: of the collection; 3 to 512 letters, digits, '.', '_' or '-'.
        embeddings: make the vectors.
        embedding_name: of the embedding model, kept with the collection.

    Raises:
        LagError: the collection was made in another space or by another embedding model.
    """
    collection = client.get_or_create_collection(
        name,
        metadata={"lag_embedding": embedding_name},
        configuration={"hnsw": {"space": "cosine"}},
        embedding_function=None,
    )
    space = (collection.configuration_json.get("hnsw") or {}).get("space")
    made_by = (collection.metadata or {}).get("lag_embedding")
    if space != "cosine" or made_by != embedding_name:
        raise LagError(
            f"Expected the collection '{name}' in cosine space, embedded by '{embedding_name}'",
            f"found space '{space}', embedded by '{made_by}'",
            "Delete the collection, or use another name",
        )
    return Chroma(client=client, collection_name=name, embedding_function=embeddings)


def index_documents(store: Chroma, documents: Sequence[Document]) -> int:
    """Puts the documents into the collection, replacing those of the same ids; returns how many.

    Deletes first, because Chroma's upsert would keep old metadata keys, and goes in batches of the
    size that the client takes.

    Args:
        store: from `open_collection`.
        documents: each with an `id`.

    Raises:
        LagError: a document has no id, or two have the same.
    """
    ids = [_id_of(document) for document in documents]
    if len(set(ids)) < len(ids):
        raise LagError(
            "Expected one id per document",
            f"found {len(ids) - len(set(ids))} repeated among {len(ids)}",
            "Give each passage an id of its own",
        )
    size = store._client.get_max_batch_size()  # noqa: SLF001
    for start in range(0, len(ids), size):
        batch = ids[start : start + size]
        store.delete(ids=batch)
        store.add_documents(list(documents[start : start + size]), ids=batch)
    return len(ids)


def _id_of(document: Document) -> str:
    if not document.id:
        raise LagError(
            "Expected documents with an id",
            f"found one without: {document.page_content[:40]!r}",
            "Set `Document(id=...)`, so that indexing again replaces it",
        )
    return document.id
