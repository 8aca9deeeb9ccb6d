from __future__ import annotations

import pytest
from langchain_core.documents import Document
from langchain_tests.integration_tests import RetrieversIntegrationTests

from lag_engine import LagError, tiny
from lag_integrations.bm25 import words
from lag_integrations.langchain import ParametricRetriever
from lag_integrations.langchain.bm25 import BM25Retriever

TEXTS = ("Rosa is a nurse.", "Hector is a teacher.", "The city is old.", "", "Rosa and Rosa.")


@pytest.fixture
def retriever():
    documents = [
        Document(text, id=f"d{i}", metadata={"adapter_id": f"doc-{i}", "adapter_rev": str(i)})
        for i, text in enumerate(TEXTS)
    ]
    return BM25Retriever.from_documents(documents, k=2)


def ids(documents):
    return [document.id for document in documents]


def test_documents_that_share_rarer_words_more_often_come_first(retriever):
    assert ids(retriever.invoke("Who is ROSA?", k=3)) == ["d4", "d0", "d1"]


def test_k_is_of_the_constructor_or_of_the_call_and_at_most_all(retriever):
    assert [len(retriever.invoke("Rosa", **k)) for k in ({}, {"k": 1}, {"k": 99})] == [2, 1, 5]


async def test_async_finds_the_same(retriever):
    assert await retriever.ainvoke("Hector", k=1) == retriever.invoke("Hector", k=1)


def test_equally_good_documents_keep_their_order(retriever):
    assert ids(retriever.invoke("unknown words", k=5)) == ["d0", "d1", "d2", "d3", "d4"]


def test_a_hit_has_its_score_and_the_kept_document_none(retriever):
    (found,) = retriever.invoke("teacher", k=1)
    assert found.metadata["bm25_score"] > 0
    assert retriever.invoke("", k=1)[0].metadata["bm25_score"] == 0
    assert "bm25_score" not in retriever.documents[1].metadata


@pytest.mark.parametrize("texts", [[], [""], ["?!"]])
def test_documents_without_words_can_be_indexed_saved_and_loaded(texts, tmp_path):
    BM25Retriever.from_texts(texts).save(tmp_path / "index")
    assert len(BM25Retriever.load(tmp_path / "index").invoke("x")) == len(texts)


def test_a_saved_index_finds_the_same_after_loading(retriever, tmp_path):
    retriever.save(tmp_path / "index")
    loaded = BM25Retriever.load(tmp_path / "index", k=3)
    assert loaded.invoke("Rosa is old") == retriever.invoke("Rosa is old", k=3)


def test_saving_again_replaces_the_index(retriever, tmp_path):
    retriever.save(tmp_path / "index")
    BM25Retriever.from_texts(["one"]).save(tmp_path / "index")
    assert len(BM25Retriever.load(tmp_path / "index").documents) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def test_a_folder_of_other_things_is_not_replaced(retriever, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(LagError, match="Found other files"):
        retriever.save(tmp_path)


def test_what_cannot_be_saved_is_refused_and_leaves_the_old_index(retriever, tmp_path):
    retriever.save(tmp_path / "index")
    with pytest.raises(LagError, match="JSON"):
        BM25Retriever.from_texts(["t"], [{"x": object()}]).save(tmp_path / "index")
    assert len(BM25Retriever.load(tmp_path / "index").documents) == len(TEXTS)


def test_another_way_of_making_words_is_noticed_when_loading(retriever, tmp_path):
    retriever.save(tmp_path / "index")
    with pytest.raises(LagError, match="split"):
        BM25Retriever.load(tmp_path / "index", tokenize=split)


def split(text):
    return text.split()


def test_no_index_is_an_error(tmp_path):
    with pytest.raises(LagError, match="Found none"):
        BM25Retriever.load(tmp_path)


def test_words_are_found_in_scripts_with_and_without_spaces():
    assert words("Ünïcode_words, X2!") == ["ünïcode", "words", "x2"]
    assert words("東京 tower") == ["東", "京", "tower"]


def test_a_parametric_retriever_over_it_knows_the_adapters(retriever, scripted_library):
    library = scripted_library(("doc-0", "0"), ("doc-4", "other"))
    over = ParametricRetriever(source=retriever, k=3, library=library)
    found = [d.metadata["adapter_status"] for d in over.invoke("Who is Rosa?")]
    assert found == ["stale", "current", "missing"]


def test_it_finds_the_right_document_of_the_tiny_world_nearly_always():
    documents = [Document(d.text, id=d.id) for d in tiny.documents()]
    retriever = BM25Retriever.from_documents(documents, k=1)
    asked = tiny.questions(per_task=20)
    right = sum(retriever.invoke(q.prompt)[0].id == q.document_id for q in asked)
    assert right / len(asked) > 0.95


class TestStandardRetriever(RetrieversIntegrationTests):
    @property
    def retriever_constructor(self):
        return BM25Retriever.from_texts

    @property
    def retriever_constructor_params(self):
        return {"texts": TEXTS}

    @property
    def retriever_query_example(self):
        return "Who is Rosa?"
