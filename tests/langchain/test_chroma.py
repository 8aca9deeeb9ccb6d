from __future__ import annotations

import chromadb
import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding

from lag_engine import LagError
from lag_integrations.langchain.chroma import index_documents, open_collection


@pytest.fixture
def client(tmp_path):
    return chromadb.PersistentClient(str(tmp_path / "chroma"))


@pytest.fixture
def open_store(client):
    embeddings = DeterministicFakeEmbedding(size=8)
    return lambda name="docs": open_collection(client, "world", embeddings, embedding_name=name)


def test_indexing_again_changes_nothing(open_store):
    documents = [Document(f"text {i}", id=str(i)) for i in range(5)]
    index_documents(open_store(), documents)
    index_documents(open_store(), documents)
    assert open_store()._collection.count() == 5


def test_indexing_again_leaves_no_old_metadata(open_store):
    index_documents(open_store(), [Document("t", id="1", metadata={"adapter_rev": "old"})])
    index_documents(open_store(), [Document("t", id="1", metadata={"title": "new"})])
    assert open_store().get_by_ids(["1"])[0].metadata == {"title": "new"}


def test_more_documents_than_a_batch_holds_are_indexed(open_store, client):
    size = client.get_max_batch_size()
    documents = [Document("t", id=str(i)) for i in range(size + 1)]
    index_documents(open_store(), documents)
    assert open_store()._collection.count() == size + 1


def test_the_space_is_cosine(open_store):
    index_documents(open_store(), [Document("t", id="1")])
    (_, distance), *_ = open_store().similarity_search_with_score("t", k=1)
    assert abs(distance) < 1e-6


def test_another_embedding_model_is_refused(open_store):
    open_store("first")
    with pytest.raises(LagError, match="embedded by 'first'"):
        open_store("second")


def test_another_space_is_refused(client, open_store):
    client.create_collection("world", metadata={"lag_embedding": "docs"})
    with pytest.raises(LagError, match="space 'l2'"):
        open_store()


@pytest.mark.parametrize("ids", [[None], ["1", "1"]])
def test_documents_need_ids_of_their_own(open_store, ids):
    with pytest.raises(LagError, match="id"):
        index_documents(open_store(), [Document("t", id=i) for i in ids])
