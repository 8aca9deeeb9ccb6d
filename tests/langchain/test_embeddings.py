from __future__ import annotations

import math
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
from langchain_tests.integration_tests import EmbeddingsIntegrationTests
from langchain_tests.unit_tests import EmbeddingsUnitTests

from lag_engine import tiny
from lag_integrations.langchain import LocalEmbeddings


@pytest.fixture(scope="module")
def embeddings():
    return LocalEmbeddings(tiny.embedder_path())


def test_constructing_loads_nothing():
    LocalEmbeddings("owner/not-there")


def test_vectors_have_unit_length(embeddings):
    assert math.hypot(*embeddings.embed_query("Rosa")) == pytest.approx(1.0, abs=1e-5)


def test_a_query_is_nearest_to_its_own_document(embeddings):
    question = next(q for q in tiny.questions() if q.task == "slot_filling")
    documents = list(tiny.documents()[:20])
    query = embeddings.embed_query(question.prompt)
    vectors = embeddings.embed_documents([d.text for d in documents])
    scores = [sum(map(float.__mul__, query, vector)) for vector in vectors]
    assert documents[scores.index(max(scores))].id == question.document_id


def test_no_texts_give_no_vectors(embeddings):
    assert embeddings.embed_documents([]) == []


def test_threads_load_the_model_once():
    embeddings = LocalEmbeddings(tiny.embedder_path())
    with ThreadPoolExecutor(4) as pool:
        loaded = list(pool.map(lambda _: embeddings._loaded, range(4)))
    assert len({id(model) for model in loaded}) == 1


def test_the_revision_is_of_what_the_files_say_not_of_where_or_when_they_are(tmp_path):
    own = LocalEmbeddings(tiny.embedder_path()).embedding_model
    copy = tmp_path / own.name
    shutil.copytree(tiny.embedder_path(), copy, copy_function=shutil.copyfile)
    assert LocalEmbeddings(copy).embedding_model == own
    (copy / "README.md").write_text("a model card")
    assert LocalEmbeddings(copy).embedding_model == own
    (copy / "config.json").write_text("{}")
    assert LocalEmbeddings(copy).embedding_model != own


class Standard:
    @property
    def embeddings_class(self):
        return LocalEmbeddings

    @property
    def embedding_model_params(self):
        return {"model": str(tiny.embedder_path())}


class TestStandardUnit(Standard, EmbeddingsUnitTests):
    pass


class TestStandardIntegration(Standard, EmbeddingsIntegrationTests):
    pass
