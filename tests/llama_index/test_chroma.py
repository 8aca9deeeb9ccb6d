"""Chroma's traps, behind LlamaIndex's vector store."""

from __future__ import annotations

import pytest
from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.core.vector_stores.types import (
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
)

from lag_engine import LagError
from lag_integrations.chroma import close_client, open_client
from lag_integrations.embedding_model import EmbeddingModel
from lag_integrations.llama_index.chroma import open_vector_store

BY = EmbeddingModel("hand")


def node(name, vector=(1.0, 0.0), text="text", document=None, **metadata):
    source = {NodeRelationship.SOURCE: RelatedNodeInfo(node_id=document)} if document else {}
    return TextNode(
        id_=name, text=text, embedding=list(vector), metadata=metadata, relationships=source
    )


@pytest.fixture
def folder(tmp_path):
    yield tmp_path / "chroma"
    close_client(tmp_path / "chroma")


@pytest.fixture
def store(folder):
    return open_vector_store(open_client(folder), "nodes", embedding=BY)


def query(store, vector=(1.0, 0.0), **options):
    return store.query(VectorStoreQuery(query_embedding=list(vector), **options))


def test_adding_a_known_id_replaces_it_and_leaves_no_stale_adapter_rev(store):
    store.add([node("a", text="old", adapter_id="x", adapter_rev="r0")])
    store.add([node("a", text="new", adapter_id="x")])
    (found,) = query(store).nodes
    assert found.text == "new"
    assert found.metadata == {"adapter_id": "x"}
    assert store._collection.get(["a"])["metadatas"][0].get("adapter_rev") is None


def test_more_nodes_than_chroma_takes_at_once_go_in(store):
    limit = store._chroma.get_max_batch_size()
    store.add([node(str(i)) for i in range(limit + 10)])
    assert store._collection.count() == limit + 10


def test_scores_are_of_cosine_space(store):
    store.add([node("a", (2.0, 0.0)), node("b", (0.0, 5.0))])
    result = query(store, (1.0, 0.0), similarity_top_k=2)
    assert result.ids == ["a", "b"]
    assert result.similarities[0] == pytest.approx(1.0)


def test_restarting_keeps_the_nodes(store, folder):
    store.add([node("a")])
    close_client(folder)
    again = open_vector_store(open_client(folder), "nodes", embedding=BY)
    assert query(again).ids == ["a"]


def test_another_embedding_model_is_refused(store, folder):
    with pytest.raises(LagError, match="embedded by 'hand'"):
        open_vector_store(open_client(folder), "nodes", embedding=EmbeddingModel("other"))


def test_vectors_of_another_dimension_are_refused_and_change_nothing(store):
    store.add([node("a")])
    with pytest.raises(LagError, match="dimension"):
        store.add([node("a", (1.0, 0.0, 0.0))])
    assert query(store).ids == ["a"]


def test_list_metadata_is_refused_since_llama_index_reads_none(store):
    with pytest.raises(ValueError, match="Value for metadata"):
        store.add([node("a", adapter_ids=["x", "y"])])


def test_deleting_a_document_deletes_its_nodes(store):
    store.add([node("a", document="d"), node("b", document="e")])
    store.delete("d")
    assert store._collection.get()["ids"] == ["b"]


def test_metadata_filters_work(store):
    store.add([node("a", topic="x"), node("b", topic="y")])
    filters = MetadataFilters(filters=[MetadataFilter(key="topic", value="y")])
    assert query(store, filters=filters).ids == ["b"]


async def test_async_adding_and_querying_agree(store):
    await store.async_add([node("a")])
    result = await store.aquery(VectorStoreQuery(query_embedding=[1.0, 0.0]))
    assert result.ids == query(store).ids == ["a"]


def test_adapter_keys_of_another_framework_are_read(store):
    store.add([node("a", adapter_id="x", adapter_rev="r1")])
    metadata = store._collection.get(["a"])["metadatas"][0]
    assert (metadata["adapter_id"], metadata["adapter_rev"]) == ("x", "r1")
