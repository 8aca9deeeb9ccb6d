"""The document chain over a real model of 64 positions."""

from __future__ import annotations

import pytest
from langchain_core.documents import Document
from langchain_core.prompts import ChatPromptTemplate

from lag_engine import PromptTooLongError
from lag_integrations.engines import release_engine
from lag_integrations.langchain import LAGChatModel, create_parametric_documents_chain

PROMPT = ChatPromptTemplate.from_messages([("user", "{context}{input}")])


@pytest.fixture(scope="module")
def llm(on_disk):
    model = LAGChatModel(model=str(on_disk.model), library=str(on_disk.library), max_tokens=4)
    yield model
    release_engine(model.engine_key)


async def test_trap_text_that_does_not_fit_is_an_error_and_never_cut(llm):
    chain = create_parametric_documents_chain(llm, PROMPT, documents="text")
    inputs = {"input": "Who?", "context": [Document("a long story " * 40)]}
    with pytest.raises(PromptTooLongError, match="64"):
        chain.invoke(inputs)
    with pytest.raises(PromptTooLongError, match="64"):
        await chain.ainvoke(inputs)
    with pytest.raises(PromptTooLongError, match="64"):
        list(chain.stream(inputs))


def test_what_does_not_fit_as_text_fits_as_an_adapter(llm):
    chain = create_parametric_documents_chain(llm, PROMPT, documents="adapters")
    story = Document("a long story " * 40, metadata={"document_id": "d1"})
    answer = chain.invoke({"input": "Who?", "context": [story]})
    assert answer.response_metadata["lag_documents"]["adapters"] == ["doc-1"]
    slots = answer.response_metadata["lag_routing"]["slots"]
    assert slots["knowledge"]["adapters"][0]["adapter"] == "doc-1"
