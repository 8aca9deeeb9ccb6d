"""Chroma as a LlamaIndex vector store that stays true to its nodes: cosine, nothing stale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from llama_index.core.schema import BaseNode, MetadataMode
from llama_index.core.vector_stores.utils import node_to_metadata_dict
from llama_index.vector_stores.chroma import ChromaVectorStore
from pydantic import PrivateAttr

from lag_integrations.chroma import Entry, open_collection, replace_entries
from lag_integrations.embedding_model import EmbeddingModel

if TYPE_CHECKING:
    from chromadb.api import ClientAPI
    from chromadb.api.models.Collection import Collection


class LAGChromaVectorStore(ChromaVectorStore):
    """LlamaIndex's Chroma store, whose `add` replaces nodes of the same ids, however many.

    The stock class uses Chroma's `add`, which keeps the old entry of a known id, and passes more
    at once than Chroma takes. `open_vector_store` makes one.

    Args:
        client: the collection's.
        chroma_collection: in cosine space, made without an embedding function.
    """

    _chroma: Any = PrivateAttr()

    def __init__(self, client: ClientAPI, chroma_collection: Collection) -> None:
        super().__init__(chroma_collection=chroma_collection)
        self._chroma = client

    @classmethod
    def class_name(cls) -> str:
        """The name in serialised forms and traces."""
        return "LAGChromaVectorStore"

    def add(self, nodes: Sequence[BaseNode], **add_kwargs: Any) -> list[str]:
        """Puts the nodes in, in place of those of the same ids; returns their ids.

        Raises:
            LagError: an id is repeated, a vector has another dimension than the collection's, or
                another process writes the folder.
        """
        entries = [self._entry(node) for node in nodes]
        replace_entries(self._chroma, self._collection, entries)
        return [entry.id for entry in entries]

    def _entry(self, node: BaseNode) -> Entry:
        metadata = node_to_metadata_dict(node, remove_text=True, flat_metadata=self.flat_metadata)
        text = node.get_content(metadata_mode=MetadataMode.NONE)
        return Entry(node.node_id, text, node.get_embedding(), metadata)


def open_vector_store(
    client: ClientAPI, name: str, *, embedding: EmbeddingModel
) -> LAGChromaVectorStore:
    """The client's collection of that name as a vector store; made, in cosine space, if it is new.

    Args:
        client: from `lag_integrations.chroma.open_client`, or any other.
        name: of the collection.
        embedding: the model whose vectors go in.

    Raises:
        LagError: the name is not legal, or the collection was made in another space or by another
            embedding model.
    """
    return LAGChromaVectorStore(client, open_collection(client, name, embedding=embedding))
