"""A retriever whose documents know their adapters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.vectorstores import VectorStore
from pydantic import ConfigDict, Field, PrivateAttr

if TYPE_CHECKING:
    from lag_engine import AdapterInfo, AdapterLibrary

AdapterStatus = Literal["ready", "unchecked", "none", "missing", "stale"]
"""Of a retrieved document's adapter: in the library; no library to ask; the document has none;
named by the document but not in the library; in the library, but not the one that was indexed."""


class ParametricRetriever(BaseRetriever):
    """Retrieves as its source does, and writes each document's adapter into its metadata.

    `adapter_id` is taken from the document's metadata or, if it has none, from the library's record
    of which adapter was trained on which document. `adapter_status` says whether it can be used;
    `adapter_sha256` names the library's version. A document whose indexed `adapter_sha256` differs
    from the library's is "stale". Nothing is dropped: a document without a usable adapter still has
    its text.

    Args:
        source: any vector store or retriever.
        k: how many documents; `invoke(query, k=...)` overrides it.
        search_kwargs: passed to a vector store's search, such as `filter`.
        library: an open `AdapterLibrary`, or its folder; None trusts the documents' metadata.
        document_id_key: the metadata key of the document's id; `Document.id` is asked next.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    source: VectorStore | BaseRetriever
    k: int = Field(default=3, ge=1)
    search_kwargs: dict[str, Any] = Field(default_factory=dict)
    library: Any = None
    document_id_key: str = "document_id"
    _adapters: AdapterIndex | None = PrivateAttr(default=None)

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        k = int(kwargs.pop("k", self.k))
        if isinstance(self.source, VectorStore):
            options = {**self.search_kwargs, **kwargs}
            documents = self.source.similarity_search(query, k=k, **options)
        else:
            config = {"callbacks": run_manager.get_child()}
            documents = self.source.invoke(query, config, k=k, **kwargs)[:k]  # type: ignore[arg-type]
        return self.annotate(documents)

    def annotate(self, documents: list[Document]) -> list[Document]:
        """Copies of the documents with `adapter_id`, `adapter_status` and what else is known."""
        index = self._index()
        return [self._annotated(document, index) for document in documents]

    def _annotated(self, document: Document, index: AdapterIndex | None) -> Document:
        metadata = dict(document.metadata)
        name = metadata.get("adapter_id") or None
        if index is None:
            status: AdapterStatus = "unchecked" if name else "none"
            return document.model_copy(update={"metadata": {**metadata, "adapter_status": status}})
        document_id = metadata.get(self.document_id_key, document.id)
        info = index.by_name.get(name) if name else index.by_document.get(str(document_id))
        if info is None:
            status = "missing" if name else "none"
        else:
            indexed = metadata.get("adapter_sha256", info.sha256)
            status = "ready" if indexed == info.sha256 else "stale"
            metadata.update(adapter_id=info.name, adapter_sha256=info.sha256)
        return document.model_copy(update={"metadata": {**metadata, "adapter_status": status}})

    def _index(self) -> AdapterIndex | None:
        if self.library is None:
            return None
        if isinstance(self.library, str):
            from lag_engine import AdapterLibrary

            self.library = AdapterLibrary.open(self.library, read_only=True)
        if self._adapters is None or self._adapters.generation != self.library.generation:
            self._adapters = AdapterIndex(self.library)
        return self._adapters


class AdapterIndex:
    """A library's adapters by name and by document, as of one generation of the library."""

    def __init__(self, library: AdapterLibrary) -> None:
        self.generation = library.generation
        infos: list[AdapterInfo] = library.list()
        self.by_name = {info.name: info for info in infos}
        self.by_document = {info.document_id: info for info in infos if info.document_id}


def usable_adapter(document: Document) -> str | None:
    """The document's adapter, if it may be applied."""
    status = document.metadata.get("adapter_status", "unchecked")
    name = document.metadata.get("adapter_id")
    return str(name) if name and status in ("ready", "unchecked") else None
