from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from pydantic import Field

from lag_engine import LagError
from lag_integrations.chroma import close_client, open_client
from lag_integrations.embedding_model import EmbeddingModel
from lag_integrations.langchain import ParametricRetriever
from lag_integrations.langchain.chroma import LAGChroma, index_documents, open_collection


@pytest.fixture
def client(tmp_path):
    yield open_client(tmp_path / "chroma")
    close_client(tmp_path / "chroma")


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


def test_trap_six_thousand_documents_are_added_twice_without_doubling(open_store):
    store = open_store()
    documents = [Document("t", id=str(i)) for i in range(6000)]
    store.add_documents(documents)
    store.add_documents(documents)
    assert store._collection.count() == 6000


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


def test_trap_the_stock_stores_upsert_would_keep_old_metadata(open_store):
    store = open_store()
    store.add_texts(["t"], [{"adapter_rev": "old"}], ["1"])
    store.add_texts(["t"], [{"title": "new"}], ["1"])
    assert store.get_by_ids(["1"])[0].metadata == {"title": "new"}
    store.update_document("1", Document("t", metadata={"title": "newer"}))
    assert store.get_by_ids(["1"])[0].metadata == {"title": "newer"}


def test_trap_relevance_is_between_zero_and_one_for_vectors_of_any_length(open_store):
    store = open_store()
    store.add_texts(["one", "two", "three"])
    scores = [s for _, s in store.similarity_search_with_relevance_scores("one", k=3)]
    assert scores[0] == pytest.approx(1.0)
    assert all(0 <= s <= 1 for s in scores)
    assert scores == sorted(scores, reverse=True)


def test_trap_another_dimension_is_refused_on_both_sides(client, open_store):
    open_store().add_texts(["t"])
    wide = DeterministicFakeEmbedding(size=9)
    store = open_collection(client, "world", wide, embedding_name="docs")
    for call in (store.add_texts, lambda t: store.similarity_search(t[0]), mmr(store)):
        with pytest.raises(LagError, match="dimension that the collection 'world' has"):
            call(["t"])


def mmr(store):
    return lambda texts: store.max_marginal_relevance_search(texts[0])


def test_trap_emptying_the_collection_keeps_its_space_and_its_embedder(open_store):
    store = open_store()
    store.add_texts(["t"])
    store.reset_collection()
    assert store.get()["ids"] == []
    assert open_store()._collection.configuration_json["hnsw"]["space"] == "cosine"


def test_the_stock_stores_ways_of_making_one_give_ours(client, tmp_path):
    embeddings = DeterministicFakeEmbedding(size=8)
    options = {"collection_name": "made", "embedding_model": "fake"}
    documents = [Document("t", id="1")]
    store = LAGChroma.from_documents(documents, embeddings, client=client, **options)
    folder = tmp_path / "chroma"
    again = LAGChroma.from_documents(documents, embeddings, persist_directory=folder, **options)
    assert again._client is store._client
    assert again._collection.count() == 1


@pytest.mark.parametrize(
    "place", [{}, {"host": "localhost"}, {"client": object(), "persist_directory": "x"}]
)
def test_trap_a_store_that_would_not_be_kept_is_refused(place):
    with pytest.raises(LagError, match="either `client` or `persist_directory`"):
        LAGChroma("world", DeterministicFakeEmbedding(size=8), **place)


def test_embeddings_without_a_name_are_refused(client):
    with pytest.raises(LagError, match="DeterministicFakeEmbedding"):
        open_collection(client, "world", DeterministicFakeEmbedding(size=8))


def test_embeddings_may_name_their_model(client):
    class Named(DeterministicFakeEmbedding):
        model_name: str = "named"

    open_collection(client, "world", Named(size=8))
    with pytest.raises(LagError, match="embedded by 'named'"):
        open_collection(client, "world", Named(size=8, model_name="other"))


class CountingEmbedding(DeterministicFakeEmbedding):
    texts: list[str] = Field(default_factory=list)
    embedding_model: EmbeddingModel = EmbeddingModel("counting", "1")

    def embed_documents(self, texts):
        self.texts.extend(texts)
        return super().embed_documents(texts)


def test_indexing_again_embeds_only_what_has_changed(client):
    embeddings = CountingEmbedding(size=8)
    store = open_collection(client, "world", embeddings)
    documents = [Document(str(i), id=str(i), metadata={"n": i, "no": None}) for i in range(4)]
    index_documents(store, documents)
    documents[1].page_content, documents[2].metadata = "new", {}
    index_documents(store, documents)
    assert embeddings.texts == ["0", "1", "2", "3", "new", "2"]
    assert [d.metadata for d in store.get_by_ids(["1", "2"])] == [{"n": 1}, {}]


def test_documents_are_found_and_deleted_by_their_metadata(open_store):
    store = open_store()
    for name in ("a", "b"):
        store.add_texts(["one", "two"], [{"document_id": name}] * 2, [f"{name}1", f"{name}2"])
    only = {"filter": {"document_id": "a"}}
    found = ParametricRetriever(source=store, k=4, search_kwargs=only).invoke("one")
    assert {d.id for d in found} == {"a1", "a2"}
    store.delete(where={"document_id": "a"})
    assert set(store.get()["ids"]) == {"b1", "b2"}


def test_trap_threads_that_write_the_same_documents_leave_one_of_each(open_store):
    store = open_store()
    documents = [Document("t", id=str(i), metadata={"n": i}) for i in range(20)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: store.add_documents(documents), range(8)))
    assert len(store.get()["ids"]) == 20
