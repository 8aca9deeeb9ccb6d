"""The traps that LangChain lays for a local chat model, one test each.

They mirror the tables of the survey of the frameworks (ecosystem.md): its ten findings, what
`BaseChatModel` expects, and how adapters may reach a model. Where another file tests a trap in full
(caches, the config, completions, messages), what is here is the case that the survey names.
"""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler, get_usage_metadata_callback
from langchain_core.documents import Document
from langchain_core.load import dumps
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage, trim_messages
from langchain_core.runnables import ConfigurableField, RunnableLambda
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.prebuilt import create_react_agent
from pydantic import BaseModel

from lag_engine import Plan, ToolCall
from lag_integrations.engines import loaded_engine, release_engine
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


class Events(BaseCallbackHandler):
    def __init__(self):
        self.seen: list[tuple[str, Any]] = []

    def on_chat_model_start(self, serialized, messages, **kwargs):
        self.seen.append(("start", kwargs))

    def on_llm_new_token(self, token, **kwargs):
        self.seen.append(("token", token))

    def on_llm_end(self, response, **kwargs):
        self.seen.append(("end", response))

    def on_llm_error(self, error, **kwargs):
        self.seen.append(("error", error))

    def of(self, kind):
        return [value for name, value in self.seen if name == kind]


def plans(engine):
    return [options["plan"] for _, options in engine.calls]


def merged(chunks):
    whole = None
    for chunk in chunks:
        whole = chunk if whole is None else whole + chunk
    return whole


# The findings.


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


# What BaseChatModel expects.


@pytest.mark.parametrize("how", ["stream", "astream", "streaming=True", "events v3"])
async def test_each_token_is_told_once(make_llm, engine, how):
    events = Events()
    config = {"callbacks": [events]}
    llm = make_llm(engine, **({"streaming": True} if how == "streaming=True" else {}))
    if how == "stream":
        list(llm.stream("Hi", config))
    elif how == "astream":
        [chunk async for chunk in llm.astream("Hi", config)]
    elif how == "events v3":
        assert "".join(llm.stream_events("Hi", config, version="v3").text) == "Paris is fine"
        return
    else:
        llm.invoke("Hi", config)
    assert events.of("token") == ["Paris", " is", " fine"]
    assert len(events.of("end")) == 1


def test_two_models_never_share_a_cache_key():
    keys = [
        LAGChatModel(model="one")._get_llm_string(),
        LAGChatModel(model="two")._get_llm_string(),
        LAGChatModel(model="one", revision="r")._get_llm_string(),
        LAGChatModel(model="one", quantization="4bit")._get_llm_string(),
        LAGChatModel(model="one", dtype="float16")._get_llm_string(),
        LAGChatModel(model="one", device="cpu")._get_llm_string(),
    ]
    assert len(set(keys)) == len(keys)


def test_traces_name_provider_and_model():
    params = LAGChatModel(max_tokens=9, temperature=0.5, stop=["x"])._get_ls_params()
    assert params == {
        "ls_provider": "lag",
        "ls_model_name": "lag-tiny",
        "ls_model_type": "chat",
        "ls_temperature": 0.5,
        "ls_max_tokens": 9,
        "ls_stop": ["x"],
    }


def test_the_profile_is_told_from_config_and_template_without_loading(llm, tmp_path):
    assert llm.profile["max_input_tokens"] == 1000
    assert llm.profile["tool_calling"] is True
    (tmp_path / "config.json").write_text(json.dumps({"max_position_embeddings": 77}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    unloaded = LAGChatModel(model=str(tmp_path))
    assert unloaded.profile["max_input_tokens"] == 77
    assert unloaded.profile["tool_calling"] is False
    assert loaded_engine(unloaded.engine_key) is None
    assert LAGChatModel(model="owner/not-there").profile is None


def test_a_model_on_another_model_has_its_own_profile(llm):
    assert llm._with(model="owner/not-there").profile is None


def test_versions_are_told_to_traces(llm):
    assert {"langchain-core", "lag-integrations"} <= set(llm.metadata["lc_versions"])


def test_tokens_are_counted_by_the_model_and_never_zero(llm):
    messages = [HumanMessage("one two three"), AIMessage("four"), HumanMessage("five")]
    assert llm.get_num_tokens_from_messages(messages) == 5
    kept = trim_messages(messages, max_tokens=2, token_counter=llm, strategy="last")
    assert [message.content for message in kept] == ["four", "five"]


def test_streams_never_ask_the_cache(make_llm, engine):
    llm = make_llm(engine, cache=InMemoryCache())
    llm.invoke("Hi")
    assert merged(llm.stream("Hi")).content == "Paris is fine"
    assert len(engine.calls) == 2


def test_merging_a_stream_doubles_no_number_and_no_name(make_llm, make_engine):
    engine = make_engine("Paris is fine", reasoning="Hm", tool_calls=[ToolCall("look_up", {})])
    llm = make_llm(engine, trace="full", logprobs=True, top_logprobs=2)
    whole, streamed = llm.invoke("Hi"), merged(llm.stream("Hi"))
    assert streamed.response_metadata == whole.response_metadata
    assert streamed.usage_metadata == whole.usage_metadata
    assert streamed.additional_kwargs == whole.additional_kwargs
    assert json.loads(json.dumps(whole.response_metadata)) == whole.response_metadata


@pytest.mark.parametrize("output_version", ["v0", "v1"])
def test_a_streams_text_merges_to_one_block(make_llm, engine, output_version):
    llm = make_llm(engine, output_version=output_version)
    whole = merged(llm.stream("Hi"))
    assert [block["type"] for block in whole.content_blocks] == ["text"]
    assert whole.text == "Paris is fine"


def test_reasoning_stands_apart_from_the_answer(make_llm, make_engine):
    llm = make_llm(make_engine("Paris", reasoning="The capital"))
    for answer in (llm.invoke("Hi"), merged(llm.stream("Hi"))):
        assert answer.content == "Paris"
        assert answer.additional_kwargs["reasoning_content"] == "The capital"
        assert answer.content_blocks[0] == {"type": "reasoning", "reasoning": "The capital"}


def test_log_probabilities_are_told_if_asked_for(llm, engine):
    assert "logprobs" not in llm.invoke("Hi").response_metadata
    for ask in (
        lambda: llm.invoke("Hi", logprobs=True),
        lambda: llm.bind(logprobs=True).invoke("Hi"),
    ):
        (first, *_) = ask().response_metadata["logprobs"]["content"]
        assert first == {"token": "t0", "bytes": [116, 48], "logprob": -0.5, "top_logprobs": []}
    (first, *_) = llm.invoke("Hi", top_logprobs=2).response_metadata["logprobs"]["content"]
    assert [other["logprob"] for other in first["top_logprobs"]] == [-1.0, -2.0]
    assert engine.calls[-1][1]["logprobs"] == 2


def test_usage_callbacks_count_this_model(llm):
    with get_usage_metadata_callback() as counted:
        llm.invoke("one two")
        list(llm.stream("one two"))
    usage = counted.usage_metadata["scripted"]
    assert (usage["input_tokens"], usage["output_tokens"]) == (4, 6)


def test_the_provider_is_our_own(llm):
    assert llm.invoke("Hi").response_metadata["model_provider"] == "lag"


def test_a_stream_that_is_left_early_is_reported_and_frees_the_engine(llm, engine):
    events = Events()
    stream = llm.stream("Hi", {"callbacks": [events]})
    next(stream)
    stream.close()
    assert isinstance(events.of("error")[0], GeneratorExit)
    assert engine.ended.is_set()


def test_nothing_but_plain_values_is_serialised(llm):
    written = json.loads(dumps(llm))
    assert written["type"] == "constructor"
    assert set(written["kwargs"]) <= set(LAGChatModel.model_fields)


def test_misspelt_arguments_do_not_vanish():
    with pytest.warns(UserWarning, match="no argument `temprature`: did you mean temperature"):
        LAGChatModel(temprature=1.0)


def test_a_call_may_name_another_model(make_llm, engine, make_engine):
    llm = make_llm(engine)
    other = make_engine("from the other")
    named = LAGChatModel.from_engine(other, name="other")
    try:
        answer = llm.invoke("Hi", model="other")
        assert answer.content == "from the other"
        assert answer.response_metadata["model_name"] == "other"
        assert merged(llm.stream("Hi", model="other")).response_metadata["model_name"] == "other"
    finally:
        release_engine(named.engine_key)


# Where adapters belong.


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


def test_routing_is_told_to_callbacks_of_both_kinds_of_model(make_llm, engine):
    events = Events()
    make_llm(engine).invoke("Hi", {"callbacks": [events]})
    (result,) = events.of("end")
    assert result.generations[0][0].message.response_metadata["lag_routing"]["mode"] == "lag"
    events = Events()
    make_llm(engine, kind=LAGLLM).invoke("Hi", {"callbacks": [events]})
    (result,) = events.of("end")
    assert result.generations[0][0].generation_info["lag_routing"]["mode"] == "lag"
