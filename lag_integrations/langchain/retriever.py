"""A retriever whose documents know their adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from langchain_core.callbacks import (
    AsyncCallbackManagerForRetrieverRun,
    CallbackManagerForRetrieverRun,
)
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableConfig
from langchain_core.vectorstores import VectorStore
from pydantic import ConfigDict, Field, PrivateAttr

from lag_integrations.adapter_index import AdapterIndex


class ParametricRetriever(BaseRetriever):
    """Retrieves as its source does, and writes each document's adapter into its metadata.

    `adapter_id` is taken from the document's metadata or, if it has none, from the library's record
    of which adapter was trained on which document. `adapter_rev` is the library's revision of it,
    and `adapter_status` says whether it can be used: "current", "stale" (retrained since it was
    indexed), "missing" (not in the library), "none", or "unchecked" (without a library). Nothing is
    dropped: a document without a usable adapter still has its text.

    Args:
        source: any vector store or retriever.
        k: how many documents; `invoke(query, k=...)` overrides it. A retriever that cannot be told
            is cut to the first k.
        search_kwargs: passed to the source's search, such as `filter`.
        library: an open `AdapterLibrary`, or its folder; None trusts the documents' metadata.
        document_id_key: the metadata key of the document's id; `Document.id` is asked next.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    source: VectorStore | BaseRetriever
    k: int = Field(default=3, ge=1)
    search_kwargs: dict[str, Any] = Field(default_factory=dict)
    library: Any = None
    document_id_key: str = "document_id"
    _index: AdapterIndex | None = PrivateAttr(default=None)

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        k, options = self._search(kwargs)
        if isinstance(self.source, VectorStore):
            return self.annotate(self.source.similarity_search(query, k=k, **options))
        config = RunnableConfig(callbacks=run_manager.get_child())
        return self.annotate(self.source.invoke(query, config, k=k, **options)[:k])

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        k, options = self._search(kwargs)
        if isinstance(self.source, VectorStore):
            return self.annotate(await self.source.asimilarity_search(query, k=k, **options))
        config = RunnableConfig(callbacks=run_manager.get_child())
        return self.annotate((await self.source.ainvoke(query, config, k=k, **options))[:k])

    def annotate(self, documents: list[Document]) -> list[Document]:
        """Copies of the documents with `adapter_id`, `adapter_rev` and `adapter_status`."""
        index = self._adapters()
        return [self._annotated(document, index) for document in documents]

    def _search(self, kwargs: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        k = int(kwargs.pop("k", self.k))
        return k, {**self.search_kwargs, **kwargs}

    def _annotated(self, document: Document, index: AdapterIndex) -> Document:
        document_id = document.metadata.get(self.document_id_key) or document.id
        found = index.find(document.metadata, str(document_id))
        return document.model_copy(update={"metadata": {**document.metadata, **found.metadata}})

    def _adapters(self) -> AdapterIndex:
        if isinstance(self.library, str | Path):
            from lag_engine import AdapterLibrary

            self.library = AdapterLibrary.open(self.library, read_only=True)
        if self._index is None or self._index.library is not self.library:
            self._index = AdapterIndex(self.library)
        return self._index
