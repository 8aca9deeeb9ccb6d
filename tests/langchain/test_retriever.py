from __future__ import annotations

import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.retrievers import BaseRetriever
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_tests.integration_tests import RetrieversIntegrationTests

from lag_integrations.langchain import ParametricRetriever


def make_store(*documents):
    store = InMemoryVectorStore(DeterministicFakeEmbedding(size=8))
    store.add_documents(list(documents))
    return store


def statuses(documents):
    return {d.id: (d.metadata.get("adapter_id"), d.metadata["adapter_status"]) for d in documents}


@pytest.fixture
def store():
    return make_store(
        Document("one", id="1", metadata={"document_id": "d1"}),
        Document("two", id="2", metadata={"document_id": "d2", "adapter_id": "two"}),
        Document("three", id="3", metadata={"document_id": "d3"}),
    )


def test_without_a_library_the_documents_metadata_is_taken_as_it_is(store):
    found = ParametricRetriever(source=store).invoke("x")
    assert statuses(found) == {
        "1": (None, "unchecked"),
        "2": ("two", "unchecked"),
        "3": (None, "unchecked"),
    }


def test_adapters_come_from_the_metadata_or_from_the_librarys_documents(store, scripted_library):
    library = scripted_library(("one", "h1", "d1"), ("two", "h2", "d2"))
    found = ParametricRetriever(source=store, library=library).invoke("x")
    assert statuses(found) == {
        "1": ("one", "current"),
        "2": ("two", "current"),
        "3": (None, "none"),
    }
    assert {d.metadata.get("adapter_rev") for d in found} == {"h1", "h2", None}


def test_an_adapter_that_left_the_library_is_missing(store, scripted_library):
    library = scripted_library(("one", "h1", "d1"))
    found = ParametricRetriever(source=store, library=library).invoke("x")
    assert statuses(found)["2"] == ("two", "missing")


def test_an_adapter_that_was_retrained_after_indexing_is_stale(scripted_library):
    metadata = {"adapter_id": "one", "adapter_rev": "old"}
    store = make_store(Document("one", id="1", metadata=metadata))
    library = scripted_library(("one", "new", "d1"))
    assert statuses(ParametricRetriever(source=store, library=library).invoke("x")) == {
        "1": ("one", "stale")
    }


def test_a_change_of_the_library_is_seen(store, scripted_library):
    library = scripted_library()
    retriever = ParametricRetriever(source=store, library=library)
    assert statuses(retriever.invoke("x"))["1"] == (None, "none")
    library.infos.extend(scripted_library(("one", "h1", "d1")).infos)
    library.generation += 1
    assert statuses(retriever.invoke("x"))["1"] == ("one", "current")


def test_the_stores_documents_are_not_changed(store):
    ParametricRetriever(source=store).invoke("x")
    assert "adapter_status" not in store.get_by_ids(["1"])[0].metadata


def test_any_retriever_may_be_the_source(store):
    class Fixed(BaseRetriever):
        def _get_relevant_documents(self, query, *, run_manager):
            return [Document(str(i), id=str(i)) for i in range(5)]

    assert len(ParametricRetriever(source=Fixed(), k=2).invoke("x")) == 2
    of_store = ParametricRetriever(source=store.as_retriever(search_kwargs={"k": 1}), k=3)
    assert len(of_store.invoke("x")) == 3


async def test_async_asks_the_sources_own_async_search(store):
    class Only(InMemoryVectorStore):
        def similarity_search(self, *args, **kwargs):
            raise AssertionError("the sync search was called")

    only = Only(DeterministicFakeEmbedding(size=8))
    await only.aadd_documents(store.similarity_search("x", k=3))
    assert len(await ParametricRetriever(source=only, k=3).ainvoke("x", k=2)) == 2

    class AsyncOnly(BaseRetriever):
        def _get_relevant_documents(self, query, *, run_manager):
            raise AssertionError("the sync search was called")

        async def _aget_relevant_documents(self, query, *, run_manager):
            return [Document(str(i)) for i in range(5)]

    assert len(await ParametricRetriever(source=AsyncOnly(), k=3).ainvoke("x")) == 3


def test_a_librarys_folder_is_opened_to_read(store, on_disk):
    for folder in (on_disk.library, str(on_disk.library)):
        found = ParametricRetriever(source=store, library=folder).invoke("x")
        assert statuses(found)["1"] == ("doc-1", "current")


def test_the_revision_is_what_the_adapter_was_made_from(scripted_library):
    metadata = {"adapter_id": "one", "adapter_rev": "made-from"}
    store = make_store(Document("one", id="1", metadata=metadata))
    library = scripted_library(("one", "weights", "d1", {"revision": "made-from"}))
    assert statuses(ParametricRetriever(source=store, library=library).invoke("x")) == {
        "1": ("one", "current")
    }


class TestStandardRetriever(RetrieversIntegrationTests):
    @property
    def retriever_constructor(self):
        return ParametricRetriever

    @property
    def retriever_constructor_params(self):
        return {"source": make_store(*(Document(str(i)) for i in range(5)))}

    @property
    def retriever_query_example(self):
        return "x"
