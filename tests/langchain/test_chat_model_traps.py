"""The traps that LangChain lays for a local chat model, one test each.

They mirror the survey of the frameworks (ecosystem.md): the findings of its section 0, then the
table of a.6 of how adapters may reach a model. Its other tables are in `test_chat_model_contract`
(a.1), `test_llm` (a.2) and `test_chat_model_faults` (a.4). Where another file tests a trap in full
(caches, the config), what is here is the case that the survey names.
"""

from __future__ import annotations

import threading

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.runnables import ConfigurableField, RunnableLambda
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.prebuilt import create_react_agent
from pydantic import BaseModel

from lag_engine import Plan
from lag_integrations.engines import loaded_engine
from lag_integrations.langchain import LAGLLM, LAGChatModel

pytestmark = [
    pytest.mark.filterwarnings("ignore::langchain_core._api.beta_decorator.LangChainBetaWarning"),
    pytest.mark.filterwarnings("ignore:create_react_agent has been moved"),
]

PINNED = Plan.from_mode("prag", adapters=["d1"])
PIN = {"mode": "prag", "adapters": ["d1"]}


class Answer(BaseModel):
    """An answer."""

    text: str


@tool
def look_up(query: str) -> str:
    """Looks something up."""
    return query


def plans(engine):
    return [options["plan"] for _, options in engine.calls]


def test_cache_poisoning_by_setting_adapters_after_the_first_call(make_llm, engine):
    llm = make_llm(engine, cache=InMemoryCache(), mode="prag", adapters=["d1"])
    llm.invoke("Hi")
    llm.adapters = ["d2"]
    llm.invoke("Hi")
    assert plans(engine) == [PINNED, Plan.from_mode("prag", adapters=["d2"])]


def test_cache_poisoning_by_model_copy(make_llm, engine):
    llm = make_llm(engine, cache=InMemoryCache(), mode="prag", adapters=["d1"])
    llm.invoke("Hi")
    llm.model_copy(update={"adapters": ["d2"]}).invoke("Hi")
    assert plans(engine) == [PINNED, Plan.from_mode("prag", adapters=["d2"])]


def test_a_copy_is_not_traced_as_the_original(llm):
    assert llm._serialized["kwargs"].get("mode", "lag") == "lag"
    assert llm.model_copy(update={"mode": "base"})._serialized["kwargs"]["mode"] == "base"


def test_bound_adapters_outlast_bind_tools(llm, engine):
    llm.bind(**PIN).bind_tools([look_up], tool_choice="any").invoke("Hi")
    assert plans(engine) == [PINNED]
    assert engine.calls[-1][1]["tool_choice"] == "any"


@pytest.mark.parametrize("include_raw", [False, True])
def test_bound_adapters_outlast_with_structured_output(make_llm, make_engine, include_raw):
    engine = make_engine('{"text": "fine"}')
    llm = make_llm(engine)
    llm.bind(**PIN).with_structured_output(Answer, include_raw=include_raw).invoke("Hi")
    assert plans(engine) == [PINNED]
    assert engine.calls[-1][1]["guide"] is not None


@pytest.mark.parametrize("include_raw", [False, True])
def test_adapters_may_be_bound_after_with_structured_output(make_llm, make_engine, include_raw):
    engine = make_engine('{"text": "fine"}')
    structured = make_llm(engine).with_structured_output(Answer, include_raw=include_raw)
    structured.bind(**PIN).invoke("Hi")
    assert plans(engine) == [PINNED]


def test_a_bound_config_outlasts_bind_tools_and_schemas(make_llm, make_engine):
    engine = make_engine('{"text": "fine"}')
    config = {"configurable": {"lag_mode": "prag", "lag_adapters": ["d1"]}}
    bound = make_llm(engine).bind(max_tokens=3).with_config(config)
    bound.bind_tools([look_up]).invoke("Hi")
    bound.with_structured_output(Answer).invoke("Hi")
    assert plans(engine) == [PINNED, PINNED]


def test_bound_adapters_outlast_a_langgraph_agent(llm, engine):
    agent = create_react_agent(llm.bind(**PIN), [look_up])
    agent.invoke({"messages": [("user", "Hi")]})
    assert plans(engine) == [PINNED]
    assert engine.calls[-1][1]["tools"]


def test_configurable_fields_run_the_constructor_again_and_load_nothing(llm, engine):
    configurable = llm.configurable_fields(mode=ConfigurableField("mode"))
    for mode in ("base", "lag", "arrow"):
        configurable.invoke("Hi", {"configurable": {"mode": mode}})
    assert [plan.mode for plan in plans(engine)] == ["base", "lag", "arrow"]
    assert loaded_engine(LAGChatModel(model="owner/not-there").engine_key) is None


def test_configurable_fields_are_lost_by_bind_tools_but_the_config_is_not(llm, engine):
    configurable = llm.configurable_fields(mode=ConfigurableField("mode")).bind_tools([look_up])
    configurable.invoke("Hi", {"configurable": {"lag_mode": "prag", "lag_adapters": ["d1"]}})
    assert plans(engine) == [PINNED]


async def test_each_token_of_an_async_stream_comes_from_one_thread(make_llm, make_engine):
    engine = make_engine(" ".join(["word"] * 20))
    threads = set()

    class Watched(str):
        __slots__ = ()

        def __bool__(self):
            threads.add(threading.get_ident())
            return len(self) > 0

    pieces = [piece.__class__(Watched(piece.text), ()) for piece in engine._pieces()]
    engine._pieces = lambda: pieces
    async for _ in make_llm(engine).astream("Hi"):
        pass
    assert len(threads) == 1
    assert threading.get_ident() not in threads


# How adapters may reach a model.


def test_with_adapters_makes_a_model_and_not_a_binding(llm, engine):
    pinned = llm.with_adapters(["d1"], mode="prag")
    assert isinstance(pinned, LAGChatModel)
    pinned.bind_tools([look_up]).invoke("Hi")
    create_react_agent(pinned, [look_up]).invoke({"messages": [("user", "Hi")]})
    assert plans(engine) == [PINNED, PINNED]


def test_a_runnable_may_return_the_model_with_adapters_bound_and_still_stream(llm, engine):
    chain = RunnableLambda(lambda adapters: llm.bind(mode="prag", adapters=adapters))
    ask = RunnableLambda(lambda text: chain.invoke(["d1"]) if text == "" else llm.bind(**PIN))
    chunks = list(ask.stream("Hi"))
    assert len(chunks) > 1
    assert plans(engine) == [PINNED]


def test_an_agent_may_choose_the_model_each_turn(llm, engine):
    def choose(state, runtime):
        return llm.bind_tools([look_up]).bind(**PIN)

    create_react_agent(choose, [look_up]).invoke({"messages": [("user", "Hi")]})
    assert plans(engine) == [PINNED]


def test_the_routing_is_on_the_last_message_chunk_of_a_graph(llm):
    agent = create_react_agent(llm, [look_up])
    question = {"messages": [("user", "Hi")]}
    chunks = [chunk for chunk, _ in agent.stream(question, stream_mode="messages")]
    carriers = [chunk for chunk in chunks if chunk.response_metadata.get("lag_routing")]
    assert len(carriers) == 1
    assert carriers[0].response_metadata["lag_routing"]["mode"] == "lag"


def retrieved(as_dicts=False):
    document = Document("Rosa is a nurse.", id="d1", metadata={"adapter_id": "doc-1"})
    artifact = [document.model_dump() if as_dicts else document]
    call = {"name": "search", "args": {"query": "Rosa"}, "id": "c1"}
    return [
        HumanMessage("Who is Rosa?"),
        AIMessage("", tool_calls=[call]),
        ToolMessage("Found one.", tool_call_id="c1", name="search", artifact=artifact),
    ]


@pytest.mark.parametrize("as_dicts", [False, True], ids=["documents", "dicts of a checkpoint"])
def test_adapters_of_a_tools_artifact_are_pinned(make_llm, engine, scripted_library, as_dicts):
    engine.library = scripted_library(("doc-1", "hash", None))
    answer = make_llm(engine, mode="prag+lag").invoke(retrieved(as_dicts))
    (plan,) = plans(engine)  # the tool's text is in the conversation as well
    assert plan == Plan.from_mode("rag+prag+lag", adapters={"knowledge": ["doc-1"]})
    assert answer.response_metadata["lag_documents"]["adapters"] == ["doc-1"]


def test_a_tools_adapters_are_left_alone_in_a_mode_that_pins_none(make_llm, engine):
    make_llm(engine, mode="rag+lag").invoke(retrieved())
    assert plans(engine) == [Plan.from_mode("rag+lag")]


def test_an_agent_that_pins_has_nothing_to_pin_before_it_retrieves_and_says_so(make_llm, engine):
    answer = make_llm(engine, mode="prag+lag").bind_tools([look_up]).invoke("Hi")
    assert plans(engine) == [Plan.from_mode("rag+lag")]
    assert answer.response_metadata["lag_documents"]["mode"] == "rag+lag"


def test_a_trace_survives_a_checkpoint(llm):
    agent = create_react_agent(llm, [look_up], checkpointer=InMemorySaver())
    thread = {"configurable": {"thread_id": "1"}}
    agent.invoke({"messages": [("user", "Hi")]}, thread)
    kept = agent.get_state(thread).values["messages"][-1]
    assert kept.response_metadata["lag_routing"]["plan"] == Plan.from_mode("lag").key


def test_routing_is_told_to_callbacks_of_both_kinds_of_model(make_llm, engine, record):
    events = record()
    make_llm(engine).invoke("Hi", {"callbacks": [events]})
    (result,) = events.of("end")
    assert result.generations[0][0].message.response_metadata["lag_routing"]["mode"] == "lag"
    events = record()
    make_llm(engine, kind=LAGLLM).invoke("Hi", {"callbacks": [events]})
    (result,) = events.of("end")
    assert result.generations[0][0].generation_info["lag_routing"]["mode"] == "lag"
