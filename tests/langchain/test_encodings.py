"""The modes of each way to encode documents, over a real model and a library that has them all."""

from __future__ import annotations

import pytest
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.prompts import ChatPromptTemplate, PromptTemplate

from lag_engine import AdapterFormatError, PlanError
from lag_integrations.engines import release_engine
from lag_integrations.langchain import (
    LAGLLM,
    LAGChatModel,
    ParametricRetriever,
    create_parametric_documents_chain,
)
from tests.conftest import ENCODED_TEXTS

PROMPT = ChatPromptTemplate.from_messages([("user", "{context}{input}")])
APPLIED = {"prag": {"prag-p1"}, "polyprag": {"latent"}, "dyprag": {"dyprag-p1"}}
"""Encoding: how the names of what the knowledge slot applied for document `p1` begin."""


@pytest.fixture(scope="module")
def llm(encoded):
    model = LAGChatModel(
        model=str(encoded.model), library=str(encoded.library), max_tokens=3, trace="full"
    )
    yield model
    release_engine(model.engine_key)


def document(i, **metadata):
    return Document(ENCODED_TEXTS[i], id=f"p{i}", metadata=metadata)


def ask(llm, found, **options):
    chain = create_parametric_documents_chain(llm, PROMPT, **options)
    return chain.invoke({"input": "Who?", "context": found})


def applied(answer, slot="knowledge"):
    """How the names of the applied adapters begin; of latent ones only that they are latent."""
    slots = answer.response_metadata["lag_routing"]["slots"]
    names = {entry["adapter"] for entry in slots.get(slot, {"adapters": []})["adapters"]}
    return {name.split("#")[0].split("-0")[0] for name in names if name}


@pytest.mark.parametrize("encoding", APPLIED)
@pytest.mark.parametrize("routed", ["", "+lag"])
def test_each_mode_applies_its_own_encoding_of_the_retrieved_document(llm, encoding, routed):
    mode = encoding + routed
    answer = ask(llm.with_mode(mode), [document(1)])
    assert answer.response_metadata["lag_routing"]["mode"] == mode
    assert applied(answer) == APPLIED[encoding]
    assert bool(applied(answer, "task")) == bool(routed)
    used = answer.response_metadata["lag_documents"]
    assert (used["used_as"], used["text"], used["fallback"]) == ("adapters", [], [])


def test_rag_prag_lag_shows_the_text_and_applies_the_adapter(llm):
    answer = ask(llm.with_mode("rag+prag+lag"), [document(1)])
    assert applied(answer) == APPLIED["prag"]
    assert applied(answer, "task")
    assert answer.response_metadata["lag_documents"]["text"] == ["p1"]


@pytest.mark.parametrize("encoding", APPLIED)
def test_an_encoding_together_with_text_keeps_its_mode(llm, encoding):
    answer = ask(llm.with_mode(encoding), [document(1)], documents="both")
    assert answer.response_metadata["lag_routing"]["mode"] == encoding
    assert applied(answer) == APPLIED[encoding]
    assert answer.response_metadata["lag_documents"]["text"] == ["p1"]


@pytest.mark.parametrize(("mode", "text"), [("polyprag", "rag"), ("dyprag+lag", "rag+lag")])
def test_as_text_a_mode_becomes_its_text_counterpart(llm, mode, text):
    answer = ask(llm.with_mode(mode), [document(1)], documents="text")
    assert answer.response_metadata["lag_routing"]["mode"] == text


@pytest.mark.parametrize("encoding", ["prag", "polyprag"])
def test_the_other_encoding_is_found_whichever_the_metadata_names(llm, encoding):
    library = llm.engine.library
    for named in ("prag-p1", "polyprag-p1"):
        revision = library.info(named).metadata["revision"]
        found = document(1, adapter_id=named, adapter_rev=revision)
        assert applied(ask(llm.with_mode(encoding), [found])) == APPLIED[encoding]
        stale = document(1, adapter_id=named, adapter_rev="another")
        answer = ask(llm.with_mode(encoding), [stale])
        assert answer.response_metadata["lag_documents"]["fallback"] == ["p1"]


def test_a_document_without_the_modes_encoding_is_text_and_said_to_be(llm):
    """`d0` has an adapter of its own and no mixture."""
    lone = Document("Something else.", id="d0")
    answer = ask(llm.with_mode("polyprag"), [document(1), lone])
    assert applied(answer) == APPLIED["polyprag"]
    assert answer.response_metadata["lag_documents"]["fallback"] == ["d0"]


def test_a_retriever_annotates_and_every_mode_finds_its_own(llm, encoded):
    retriever = ParametricRetriever.model_construct(
        library=str(encoded.library), document_id_key="document_id"
    )
    (found,) = retriever.annotate([document(1)])
    assert found.metadata["adapter_id"] == "prag-p1"
    for encoding, expected in APPLIED.items():
        assert applied(ask(llm.with_mode(encoding), [found])) == expected


def test_generated_adapters_are_of_the_documents_text(llm):
    """The same text makes the same adapter, another text another."""
    one, again, other = (
        ask(llm.with_mode("dyprag"), [Document(text, id="x")])
        for text in ("Rosa is a nurse.", "Rosa is a nurse.", "Hector is a teacher.")
    )
    plans = [a.response_metadata["lag_routing"]["plan"] for a in (one, again, other)]
    assert plans[0] == plans[1] != plans[2]


async def test_every_way_of_asking_makes_adapters(llm, encoded):
    chat = create_parametric_documents_chain(llm.with_mode("dyprag"), PROMPT)
    inputs = {"input": "Who?", "context": [document(1)]}
    text = chat.invoke(inputs).content
    assert (await chat.ainvoke(inputs)).content == text
    assert "".join(chunk.content for chunk in chat.stream(inputs)) == text
    assert [answer.content for answer in chat.batch([inputs, inputs])] == [text, text]
    completion = LAGLLM(
        model=str(encoded.model), library=str(encoded.library), mode="dyprag", max_tokens=3
    )
    plain = create_parametric_documents_chain(
        completion, PromptTemplate.from_template("{context}{input}")
    )
    assert plain.invoke(inputs) == "".join(plain.stream(inputs))


@pytest.mark.parametrize("encoding", APPLIED)
def test_documents_of_a_tool_are_applied_in_the_modes_encoding(llm, encoding):
    call = {"name": "search", "args": {}, "id": "1"}
    artifact = [document(1, adapter_id="prag-p1", lag_documents="adapters")]
    told = ToolMessage("Found: p1.", tool_call_id="1", artifact=artifact)
    messages = [HumanMessage("Who?"), AIMessage("", tool_calls=[call]), told]
    from lag_integrations.langchain.tool_documents import use_tool_documents

    library = llm.engine.library
    use = use_tool_documents(messages, mode=f"{encoding}+lag", adapters=None, library=library)
    assert use.mode == f"{encoding}+lag"
    (adapter,) = use.adapters["knowledge"]
    expected = {"prag": "prag-p1", "polyprag": "polyprag-p1"}
    if encoding == "dyprag":
        assert (adapter["text"], adapter["id"][:3]) == (ENCODED_TEXTS[1], "p1#")
    else:
        assert adapter == expected[encoding]


def test_without_passages_or_a_translator_there_is_an_error(llm, tmp_path):
    with pytest.raises(PlanError, match="passages to make adapters of"):
        llm.with_mode("dyprag").invoke("Who?")
    with pytest.raises(PlanError, match="passages to make adapters of"):
        llm.with_mode("dyprag").invoke("Who?", adapters=["prag-p1"])
    elsewhere = llm.with_mode("dyprag", translator=str(tmp_path))
    with pytest.raises(AdapterFormatError, match="lag encode --method dyprag"):
        ask(elsewhere, [document(1)])


def test_a_translator_of_another_folder_may_be_named(llm, encoded):
    elsewhere = llm.with_mode("dyprag", translator=str(encoded.library / "translator"))
    assert applied(ask(elsewhere, [document(1)])) == APPLIED["dyprag"]
