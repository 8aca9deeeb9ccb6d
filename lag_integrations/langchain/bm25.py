"""BM25 as a LangChain retriever, kept in a folder."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

from langchain_core.callbacks import (
    AsyncCallbackManagerForRetrieverRun,
    CallbackManagerForRetrieverRun,
)
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables.config import run_in_executor
from pydantic import ConfigDict, Field

from lag_integrations.bm25 import BM25Index, Tokenize, words


class BM25Retriever(BaseRetriever):
    """Retrieves the documents that share the query's words, by BM25.

    It needs no embedding model and no server. The documents keep their id and metadata, so that
    a `ParametricRetriever` over it finds their adapters.

    Args:
        index: made by `from_documents` or `load`.
        documents: in the index's order.
        k: how many documents; `invoke(query, k=...)` overrides it.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    index: BM25Index
    documents: list[Document]
    k: int = Field(default=4, ge=1)

    @classmethod
    def from_documents(
        cls, documents: Iterable[Document], *, tokenize: Tokenize = words, **arguments: Any
    ) -> Self:
        """Indexes the documents.

        Args:
            documents: any number; the earlier of two equally good ones comes first.
            tokenize: makes words of documents and queries.
            arguments: of the constructor, such as `k`.
        """
        kept = list(documents)
        index = BM25Index.of([document.page_content for document in kept], tokenize=tokenize)
        return cls(index=index, documents=kept, **arguments)

    @classmethod
    def from_texts(
        cls,
        texts: Iterable[str],
        metadatas: Iterable[dict[str, Any]] | None = None,
        **arguments: Any,
    ) -> Self:
        """Indexes texts with their metadata."""
        contents = list(texts)
        notes = [{} for _ in contents] if metadatas is None else list(metadatas)
        pairs = zip(contents, notes, strict=True)
        return cls.from_documents([Document(t, metadata=m) for t, m in pairs], **arguments)

    def save(self, folder: str | Path) -> None:
        """Writes the index and its documents to the folder, in place of what was there.

        Raises:
            LagError: the folder holds something else, or a document's metadata is not JSON.
        """
        fields = {"id", "page_content", "metadata"}
        self.index.save(folder, [d.model_dump(include=fields) for d in self.documents])

    @classmethod
    def load(cls, folder: str | Path, *, tokenize: Tokenize = words, **arguments: Any) -> Self:
        """Reads what `save` wrote.

        Args:
            folder: of the index.
            tokenize: the same as when it was made.
            arguments: of the constructor, such as `k`.

        Raises:
            LagError: there is no index, or it was made with another `tokenize`.
        """
        index, records = BM25Index.load(folder, tokenize=tokenize)
        return cls(index=index, documents=[Document(**r) for r in records], **arguments)

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        return self._search(query, **kwargs)

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        return await run_in_executor(None, self._search, query, **kwargs)

    def _search(self, query: str, *, k: int | None = None) -> list[Document]:
        hits = self.index.search(query, self.k if k is None else k)
        return [self._found(hit.position, hit.score) for hit in hits]

    def _found(self, position: int, score: float) -> Document:
        document = self.documents[position]
        metadata = {**document.metadata, "bm25_score": score}
        return document.model_copy(update={"metadata": metadata})
