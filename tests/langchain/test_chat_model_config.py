"""`config={"configurable": {"lag_mode", "lag_adapters"}}` reaches the engine on every way in."""

from __future__ import annotations

import asyncio

import pytest
from langchain_core.messages import HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.runnables import RunnableLambda, RunnableParallel
from langchain_core.tools import tool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import create_react_agent
from pydantic import BaseModel

from lag_engine import Plan

CONFIG = {"configurable": {"lag_mode": "prag", "lag_adapters": ["d1"]}}
PINNED = Plan.from_mode("prag", adapters=["d1"])

pytestmark = [
    pytest.mark.filterwarnings("ignore::langchain_core._api.beta_decorator.LangChainBetaWarning"),
    pytest.mark.filterwarnings("ignore:create_react_agent has been moved"),
    pytest.mark.filterwarnings("ignore:astream_events version='v1' is deprecated"),
]


@tool
def look_up(query: str) -> str:
    """Looks something up."""
    return query


class Answer(BaseModel):
    """An answer."""

    text: str


async def drained(stream):
    return [item async for item in stream]


async def awaited_v3(runnable):
    return [event async for event in await runnable.astream_events("Hi", CONFIG, version="v3")]


SYNC = {
    "invoke": lambda m: m.invoke("Hi", CONFIG),
    "stream": lambda m: list(m.stream("Hi", CONFIG)),
    "batch": lambda m: m.batch(["Hi", "Ho"], CONFIG),
    "batch, a config each": lambda m: m.batch(["Hi", "Ho"], [CONFIG, CONFIG]),
    "batch as completed": lambda m: list(m.batch_as_completed(["Hi", "Ho"], CONFIG)),
    "transform": lambda m: list(m.transform(iter(["Hi"]), CONFIG)),
    "events v1": lambda m: asyncio.run(drained(m.astream_events("Hi", CONFIG, version="v1"))),
    "events v2": lambda m: asyncio.run(drained(m.astream_events("Hi", CONFIG, version="v2"))),
    "events v3": lambda m: list(m.stream_events("Hi", CONFIG, version="v3")),
    "events v3, async": lambda m: asyncio.run(awaited_v3(m)),
    "ainvoke": lambda m: asyncio.run(m.ainvoke("Hi", CONFIG)),
    "astream": lambda m: asyncio.run(drained(m.astream("Hi", CONFIG))),
    "abatch": lambda m: asyncio.run(m.abatch(["Hi", "Ho"], CONFIG)),
    "generate, inside a runnable": lambda m: RunnableLambda(
        lambda _: m.generate([[HumanMessage("Hi")]]).generations[0][0].text
    ).invoke("", CONFIG),
    "agenerate, inside a runnable": lambda m: asyncio.run(
        RunnableLambda(lambda _: None, afunc=lambda _: m.agenerate([[HumanMessage("Hi")]])).ainvoke(
            "", CONFIG
        )
    ),
    "invoke, inside a runnable": lambda m: RunnableLambda(m.invoke).invoke("Hi", CONFIG),
    "with_config": lambda m: m.with_config(CONFIG).invoke("Hi"),
    "with_retry": lambda m: m.with_retry().invoke("Hi", CONFIG),
    "with_fallbacks": lambda m: m.with_fallbacks([m]).invoke("Hi", CONFIG),
    "a pipe": lambda m: (m | StrOutputParser()).invoke("Hi", CONFIG),
    "parallel": lambda m: RunnableParallel(a=m, b=m).invoke("Hi", CONFIG),
}

WRAPPED = {
    "the model": lambda m: m,
    "bind": lambda m: m.bind(max_tokens=5),
    "bind_tools": lambda m: m.bind_tools([look_up]),
    "with_structured_output": lambda m: m.with_structured_output(Answer),
    "structured output with the raw answer": lambda m: m.with_structured_output(
        Answer, include_raw=True
    ),
    "structured output by a tool": lambda m: m.with_structured_output(
        Answer, method="function_calling", include_raw=True
    ),
}


@pytest.fixture
def engine(make_engine):
    return make_engine('{"text": "fine"}')


def plans(engine):
    return {options["plan"] for _, options in engine.calls}


@pytest.mark.parametrize("way", SYNC)
def test_the_config_arrives_by(llm, engine, way):
    SYNC[way](llm)
    assert plans(engine) == {PINNED}


@pytest.mark.parametrize("call", ["invoke", "stream", "events v2", "events v3", "ainvoke", "batch"])
@pytest.mark.parametrize("wrapper", WRAPPED)
def test_the_config_outlasts(llm, engine, wrapper, call):
    wrapped = WRAPPED[wrapper](llm)
    if call == "events v3" and "structured" in wrapper:
        call = "events v2"  # LangChain has v3 for models and graphs only, not for chains
    SYNC[call](wrapped)
    assert engine.calls
    assert plans(engine) == {PINNED}


@pytest.mark.parametrize("how", ["invoke", "stream", "ainvoke", "astream"])
async def test_the_config_reaches_a_model_inside_a_langgraph_agent(llm, engine, how):
    agent = create_react_agent(llm, [look_up])
    question = {"messages": [("user", "Hi")]}
    if how == "invoke":
        agent.invoke(question, CONFIG)
    elif how == "ainvoke":
        await agent.ainvoke(question, CONFIG)
    elif how == "stream":
        list(agent.stream(question, CONFIG, stream_mode="messages"))
    else:
        await drained(agent.astream(question, CONFIG, stream_mode="messages"))
    assert plans(engine) == {PINNED}
    assert engine.calls[0][1]["tools"]


@pytest.mark.parametrize("is_async", [False, True])
async def test_the_config_reaches_a_model_inside_a_langgraph_node(llm, engine, is_async):
    def node(state: MessagesState):
        return {"messages": [llm.invoke(state["messages"])]}

    async def anode(state: MessagesState):
        return {"messages": [await llm.ainvoke(state["messages"])]}

    graph = StateGraph(MessagesState).add_node("answer", anode if is_async else node)
    app = graph.add_edge(START, "answer").compile()
    question = {"messages": [("user", "Hi")]}
    answer = await app.ainvoke(question, CONFIG) if is_async else app.invoke(question, CONFIG)
    assert plans(engine) == {PINNED}
    assert answer["messages"][-1].response_metadata["lag_routing"]["plan"] == PINNED.key


def test_each_input_of_a_batch_has_its_own_config(llm, engine):
    modes = ["base", "lag", "arrow"]
    llm.batch(["Hi"] * 3, [{"configurable": {"lag_mode": mode}} for mode in modes])
    assert sorted(options["plan"].mode for _, options in engine.calls) == sorted(modes)


def test_a_call_argument_beats_the_config_on_every_way(llm, engine):
    llm.invoke("Hi", CONFIG, mode="base", adapters=None)
    llm.bind(mode="base", adapters=None).invoke("Hi", CONFIG)
    list(llm.stream_events("Hi", CONFIG, version="v3", mode="base", adapters=None))
    assert plans(engine) == {Plan.from_mode("base")}
