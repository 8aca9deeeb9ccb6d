from __future__ import annotations

import math

import pytest

from lag_engine import tiny
from lag_integrations.llama_index import LocalEmbedding


@pytest.fixture(scope="module")
def embedding():
    return LocalEmbedding(tiny.embedder_path())


async def test_vectors_are_unit_length_and_the_same_in_every_way(embedding):
    text = "Rosa Sinclair is a court nurse."
    vector = embedding.get_text_embedding(text)
    assert math.isclose(sum(x * x for x in vector), 1.0, rel_tol=1e-5)
    assert embedding.get_text_embedding_batch([text, "b"])[0] == pytest.approx(vector, abs=1e-6)
    assert await embedding.aget_text_embedding(text) == vector
    assert await embedding.aget_query_embedding(text) == embedding.get_query_embedding(text)


def test_a_document_is_closest_to_its_own_question(embedding):
    documents = tiny.documents()[:20]
    vectors = embedding.get_text_embedding_batch([d.text for d in documents])
    query = embedding.get_query_embedding(f"What is known of {documents[7].title}?")
    scores = [embedding.similarity(query, vector) for vector in vectors]
    assert max(range(20), key=scores.__getitem__) == 7


def test_its_serialised_form_makes_it_again(embedding):
    told = embedding.to_dict()
    assert LocalEmbedding.from_dict(told).to_dict() == told


def test_it_says_by_which_files_its_vectors_were_made(embedding):
    model = embedding.embedding_model
    assert model.name == tiny.embedder_path().name
    assert len(model.revision) == 16
