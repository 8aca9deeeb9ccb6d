"""The modes of each way to encode documents, over a real model and a library that has them all."""

from __future__ import annotations

import pytest
from llama_index.core import PromptTemplate
from llama_index.core.schema import NodeWithScore, TextNode

from lag_engine import PlanError
from lag_integrations.engines import release_engine
from lag_integrations.llama_index import LAGLLM, AdapterPostprocessor, ParametricSynthesizer
from tests.conftest import ENCODED_TEXTS

APPLIED = {"prag": {"prag-p1"}, "polyprag": {"latent"}, "dyprag": {"dyprag-p1"}}
"""Encoding: how the names of what the knowledge slot applied for node `p1` begin."""


@pytest.fixture(scope="module")
def llm(encoded):
    model = LAGLLM(
        model=str(encoded.model), library=str(encoded.library), max_tokens=3, trace="full"
    )
    yield model
    release_engine(model.engine_key)


def node(i, **metadata):
    return NodeWithScore(node=TextNode(id_=f"p{i}", text=ENCODED_TEXTS[i], metadata=metadata))


def applied(metadata, slot="knowledge"):
    """How the names of the applied adapters begin; of latent ones only that they are latent."""
    slots = metadata["lag_routing"]["slots"]
    names = {entry["adapter"] for entry in slots.get(slot, {"adapters": []})["adapters"]}
    return {name.split("#")[0].split("-0")[0] for name in names if name}


@pytest.mark.parametrize("encoding", APPLIED)
@pytest.mark.parametrize("routed", ["", "+lag"])
def test_each_mode_applies_its_own_encoding_of_the_retrieved_node(llm, encoding, routed):
    mode = encoding + routed
    response = ParametricSynthesizer(llm.with_mode(mode)).synthesize("Who?", [node(1)])
    assert response.metadata["lag_routing"]["mode"] == mode
    assert applied(response.metadata) == APPLIED[encoding]
    assert bool(applied(response.metadata, "task")) == bool(routed)
    assert response.metadata["lag_documents"]["fallback"] == []


def test_rag_prag_lag_shows_the_text_and_applies_the_adapter(llm):
    short = PromptTemplate("{context_str} {query_str}")
    both = ParametricSynthesizer(llm.with_mode("rag+prag+lag"), text_qa_template=short)
    response = both.synthesize("Who?", [node(1)])
    assert applied(response.metadata) == APPLIED["prag"]
    assert response.metadata["lag_documents"]["text"] == ["p1"]


def test_a_postprocessor_annotates_and_every_mode_finds_its_own(llm, encoded):
    annotated = AdapterPostprocessor(library=str(encoded.library)).postprocess_nodes([node(1)])
    assert annotated[0].node.metadata["adapter_id"] == "prag-p1"
    for encoding, expected in APPLIED.items():
        response = ParametricSynthesizer(llm.with_mode(encoding)).synthesize("Who?", annotated)
        assert applied(response.metadata) == expected


async def test_every_way_of_asking_makes_adapters(llm):
    maker = llm.with_mode("dyprag")
    text = ParametricSynthesizer(maker).synthesize("Who?", [node(1)]).response
    assert (await ParametricSynthesizer(maker).asynthesize("Who?", [node(1)])).response == text
    streamed = ParametricSynthesizer(maker, streaming=True).synthesize("Who?", [node(1)])
    assert "".join(streamed.response_gen) == text


def test_a_mode_that_there_is_not_is_refused_before_a_model_is_loaded():
    with pytest.raises(PlanError, match="prga"):
        LAGLLM(model="no-such-model", mode="prga")
