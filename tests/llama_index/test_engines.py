"""Query, chat, router and agent engines over Chroma, on the shipped model."""

from __future__ import annotations

import pytest
from llama_index.core import PromptTemplate
from llama_index.core.agent.workflow import FunctionAgent, ReActAgent
from llama_index.core.chat_engine import (
    CondensePlusContextChatEngine,
    CondenseQuestionChatEngine,
    ContextChatEngine,
)
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.query_engine import RouterQueryEngine
from llama_index.core.selectors import EmbeddingSingleSelector, PydanticSingleSelector
from llama_index.core.tools import QueryEngineTool

from lag_engine import tiny
from lag_integrations.llama_index import (
    LAGLLM,
    AdapterPostprocessor,
    LocalEmbedding,
    ParametricSynthesizer,
)

# Workflows read every attribute of an agent, pydantic's deprecated ones too; ReActAgent asks them
# in a way that they deprecate.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:is_running called from within a step:DeprecationWarning"),
]

PROMPT = PromptTemplate(tiny.CONTEXT_PROMPT.format(context="{context_str}", input="{query_str}"))
QUESTION = next(q for q in tiny.questions() if q.task == "open_qa")
DOCUMENT = next(d for d in tiny.documents() if d.id == QUESTION.document_id)


@pytest.fixture
def memory():
    """Core's default memory leaves its database open."""
    return ChatMemoryBuffer.from_defaults(token_limit=500)


@pytest.fixture
def query_engine(tiny_index, tiny_llm):
    """PRAG+LAG over Chroma, its adapters checked."""
    llm = tiny_llm.with_mode("prag+lag")
    return tiny_index.as_query_engine(
        llm=llm,  # core asks for one before it looks at the synthesizer
        similarity_top_k=1,
        node_postprocessors=[AdapterPostprocessor(library=llm.engine.library)],
        response_synthesizer=ParametricSynthesizer(llm, text_qa_template=PROMPT),
    )


async def test_a_query_engine_answers_from_adapters_and_shows_its_sources(query_engine, json_able):
    for response in (
        query_engine.query(QUESTION.prompt),
        await query_engine.aquery(QUESTION.prompt),
    ):
        assert str(response).strip() == QUESTION.answer
        (source,) = response.source_nodes
        assert source.node.get_content() == DOCUMENT.text
        assert source.node.metadata["adapter_status"] == "current"
        assert response.metadata["lag_documents"]["adapters"] == [DOCUMENT.adapter]
        assert json_able(response.metadata["lag_routing"])


def test_a_streaming_query_engine_answers_alike(tiny_index, tiny_llm):
    llm = tiny_llm.with_mode("prag+lag")
    synthesizer = ParametricSynthesizer(llm, streaming=True)
    engine = tiny_index.as_query_engine(
        llm=llm, similarity_top_k=1, response_synthesizer=synthesizer
    )
    response = engine.query(QUESTION.prompt)
    assert "".join(response.response_gen).strip() == QUESTION.answer
    assert response.metadata["lag_routing"]["mode"] == "prag+lag"


async def test_a_context_chat_engine_reads_the_document_in_mode_rag_lag(
    tiny_index, tiny_llm, memory
):
    chat = ContextChatEngine.from_defaults(
        retriever=tiny_index.as_retriever(similarity_top_k=1),
        llm=tiny_llm.with_mode("rag+lag"),
        context_template="Text: {context_str}",
        memory=memory,
    )
    response = chat.chat(QUESTION.prompt)
    assert response.response.strip()
    assert [n.node.get_content() for n in response.source_nodes] == [DOCUMENT.text]
    follow_up = await chat.achat("And who else?")
    assert follow_up.response
    assert len(chat.chat_history) == 4
    streamed = chat.stream_chat(QUESTION.prompt)
    assert "".join(streamed.response_gen).strip()


async def test_condense_plus_context_goes_on_with_a_conversation(tiny_index, tiny_llm, memory):
    chat = CondensePlusContextChatEngine.from_defaults(
        retriever=tiny_index.as_retriever(similarity_top_k=1),
        llm=tiny_llm.with_mode("rag+lag"),
        context_prompt="Text: {context_str}",
        memory=memory,
    )
    assert chat.chat(QUESTION.prompt).source_nodes
    assert (await chat.achat("And who else?")).response
    stream = await chat.astream_chat("And then?")
    assert "".join([token async for token in stream.async_response_gen()])


def test_a_chat_engine_over_the_query_engine_pins_what_it_finds(query_engine, tiny_llm, memory):
    chat = CondenseQuestionChatEngine.from_defaults(
        query_engine=query_engine, llm=tiny_llm, memory=memory
    )
    response = chat.chat(QUESTION.prompt)
    assert response.response.strip() == QUESTION.answer
    assert response.source_nodes[0].node.metadata["adapter_id"] == DOCUMENT.adapter


def test_adapters_of_the_llm_hold_in_chat_engines_of_core(tiny_index, tiny_llm, memory):
    chat = tiny_index.as_chat_engine(
        chat_mode="simple",
        llm=tiny_llm.with_adapters([DOCUMENT.adapter], mode="prag+lag"),
        memory=memory,
    )
    assert chat.chat(QUESTION.prompt).response.strip() == QUESTION.answer


@pytest.fixture
def domains(query_engine, tiny_index, tiny_llm):
    """One engine for each kind of question, as tools with descriptions."""
    text = tiny_index.as_query_engine(
        llm=tiny_llm.with_mode("rag+lag"), similarity_top_k=1, text_qa_template=PROMPT
    )
    return [
        QueryEngineTool.from_defaults(query_engine, name="world", description=DOCUMENT.text),
        QueryEngineTool.from_defaults(text, name="other", description="Cooking with vegetables."),
    ]


async def test_a_router_by_embeddings_takes_the_engine_that_fits(domains, tiny_llm):
    selector = EmbeddingSingleSelector.from_defaults(LocalEmbedding(tiny.embedder_path()))
    router = RouterQueryEngine(selector, domains, llm=tiny_llm)
    for response in (router.query(QUESTION.prompt), await router.aquery(QUESTION.prompt)):
        assert str(response).strip() == QUESTION.answer
        assert response.metadata["selector_result"].selections[0].index == 0
        assert response.metadata["lag_documents"]["adapters"] == [DOCUMENT.adapter]


def test_a_router_by_the_model_selects_by_a_guided_tool_call(domains, make_llm, scripted):
    call = type("Call", (), {"id": "c", "name": "SingleSelection"})()
    call.arguments = {"index": 1, "reason": "It fits."}
    llm = make_llm(scripted({"text": "", "tool_calls": (call,), "finish_reason": "tool_calls"}))
    router = RouterQueryEngine(PydanticSingleSelector.from_defaults(llm=llm), domains, llm=llm)
    assert str(router.query(QUESTION.prompt)).strip()
    assert llm.engine.calls[0][1]["tool_choice"] == "any"


async def test_a_function_agent_uses_the_query_engine_as_its_tool(
    domains, make_llm, scripted, memory
):
    call = type("Call", (), {"id": "c", "name": "world", "arguments": {"input": QUESTION.prompt}})()
    engine = scripted(
        {"text": "", "tool_calls": (call,), "finish_reason": "tool_calls"}, "It is known."
    )
    agent = FunctionAgent(tools=domains, llm=make_llm(engine))
    response = await agent.run(QUESTION.prompt, memory=memory)
    assert str(response) == "It is known."
    (result,) = [m["content"] for m in engine.prompt if m["role"] == "tool"]
    assert result.strip() == QUESTION.answer


async def test_a_react_agent_uses_the_query_engine_as_its_tool(domains, make_llm, scripted, memory):
    act = f'Thought: I look it up.\nAction: world\nAction Input: {{"input": "{QUESTION.prompt}"}}'
    engine = scripted(act, "Thought: I can answer.\nAnswer: It is known.")
    agent = ReActAgent(tools=domains, llm=make_llm(engine))
    response = await agent.run(QUESTION.prompt, memory=memory)
    assert str(response) == "It is known."
    assert QUESTION.answer in engine.prompt[-1]["content"]


async def test_a_function_agent_on_the_shipped_model_gets_the_documents_answer(
    domains, tiny_llm, memory
):
    llm: LAGLLM = tiny_llm.with_changes(max_tokens=64)
    agent = FunctionAgent(tools=domains, llm=llm, initial_tool_choice="world")
    response = await agent.run(QUESTION.prompt, memory=memory, max_iterations=4)
    first = response.tool_calls[0]
    assert first.tool_name == "world"
    assert first.tool_output.raw_output.metadata["lag_routing"]["mode"] == "prag+lag"
