"""Tools and the choice among them go to the engine; calls come back whole, in every way."""

from __future__ import annotations

import json

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.runnables import RunnableBinding
from langchain_core.tools import tool
from pydantic import BaseModel

from lag_engine import GenerationError, ToolCall

PARIS = ToolCall("get_weather", {"city": "Paris"}, "call_1")
BERLIN = ToolCall("get_weather", {"city": "Berlin"}, "call_2")


@tool
def get_weather(city: str) -> str:
    """The weather of a city."""
    return f"sun in {city}"


@tool
def get_time() -> str:
    """The time."""
    return "noon"


class Person(BaseModel):
    """Somebody."""

    name: str


def asked(engine):
    return engine.calls[-1][1]


def test_bound_tools_reach_the_engine_as_function_schemas(llm, engine):
    bound = llm.bind_tools([get_weather, get_time, Person])
    assert isinstance(bound, RunnableBinding)
    bound.invoke("Hello")
    functions = [tool["function"] for tool in asked(engine)["tools"]]
    assert [f["name"] for f in functions] == ["get_weather", "get_time", "Person"]
    assert functions[0]["parameters"]["required"] == ["city"]
    assert functions[1]["parameters"] == {"type": "object", "properties": {}}
    assert asked(engine)["tool_choice"] == "auto"


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        (None, "auto"),
        ("auto", "auto"),
        ("any", "any"),
        ("required", "any"),
        (True, "any"),
        ("none", "none"),
        (False, "none"),
        ("get_time", "get_time"),
        ({"type": "function", "function": {"name": "get_time"}}, "get_time"),
        ({"type": "tool", "name": "get_time"}, "get_time"),
        ({"type": "any"}, "any"),
        ({"type": "auto"}, "auto"),
    ],
)
def test_every_form_of_tool_choice_is_understood(llm, engine, said, meant):
    llm.bind_tools([get_weather, get_time], tool_choice=said).invoke("Hello")
    assert asked(engine)["tool_choice"] == meant


def test_a_tool_may_be_called_like_a_choice(llm, engine):
    @tool
    def any(query: str) -> str:  # noqa: A001
        """Searches anything."""
        return query

    llm.bind_tools([any, get_time], tool_choice="any").invoke("Hello")
    assert asked(engine)["tool_choice"] == "any"


@pytest.mark.parametrize("choice", ["get_wether", {"type": "function", "function": {"name": "x"}}])
def test_a_choice_that_is_not_bound_is_refused_at_once(llm, choice):
    with pytest.raises(GenerationError, match="name of one of the tools"):
        llm.bind_tools([get_weather], tool_choice=choice)


def test_a_tool_that_only_its_provider_runs_is_refused(llm):
    with pytest.raises(GenerationError, match="type 'web_search'"):
        llm.bind_tools([{"type": "web_search"}])


def test_a_tool_in_anthropics_form_is_converted(llm, engine):
    schema = {"type": "object", "properties": {"colour": {"type": "string"}}}
    llm.bind_tools([{"name": "pick", "input_schema": schema}]).invoke("Hello")
    assert asked(engine)["tools"][0]["function"] == {"name": "pick", "parameters": schema}


def test_strict_tools_are_closed(llm, engine):
    llm.bind_tools([get_weather], strict=True).invoke("Hello")
    assert asked(engine)["tools"][0]["function"]["parameters"]["additionalProperties"] is False


def test_one_call_at_most_is_passed_on(llm, engine):
    llm.bind_tools([get_weather], parallel_tool_calls=False).invoke("Hello")
    assert asked(engine)["parallel_tool_calls"] is False


def test_tools_may_be_given_to_one_call(llm, engine):
    llm.invoke("Hello", tools=[get_weather], tool_choice="any")
    assert asked(engine)["tools"][0]["function"]["name"] == "get_weather"
    assert asked(engine)["tool_choice"] == "any"


def test_calls_come_out_of_invoke(make_llm, make_engine):
    llm = make_llm(make_engine("", tool_calls=[PARIS, BERLIN]))
    answer = llm.invoke("Weather?")
    assert answer.tool_calls == [
        {"name": "get_weather", "args": {"city": "Paris"}, "id": "call_1", "type": "tool_call"},
        {"name": "get_weather", "args": {"city": "Berlin"}, "id": "call_2", "type": "tool_call"},
    ]
    assert answer.response_metadata["finish_reason"] == "tool_calls"


def test_streamed_calls_merge_to_the_calls_of_invoke(make_llm, make_engine):
    llm = make_llm(make_engine("Let me look", tool_calls=[PARIS, BERLIN]))
    chunks = list(llm.stream("Weather?"))
    indices = [c["index"] for chunk in chunks for c in chunk.tool_call_chunks]
    assert indices == [0, 1]
    merged = chunks[0]
    for chunk in chunks[1:]:
        merged += chunk
    whole = llm.invoke("Weather?")
    assert merged.tool_calls == whole.tool_calls
    assert merged.content == whole.content
    assert merged.content_blocks == whole.content_blocks


@pytest.mark.parametrize(
    "cut_text", ['<tool_call>{"name": "get_weather", "argu', '{"name": "get_weather", "para']
)
def test_a_call_that_was_cut_off_is_invalid_and_not_repaired(make_llm, make_engine, cut_text):
    llm = make_llm(make_engine("Let me look", broken_tool_call=cut_text, cut=True))
    answer = llm.invoke("Weather?")
    merged = None
    for chunk in llm.stream("Weather?"):
        merged = chunk if merged is None else merged + chunk
    assert answer.tool_calls == merged.tool_calls == []
    (broken,) = answer.invalid_tool_calls
    assert "get_weather" in broken["args"]
    assert [b["args"] for b in merged.invalid_tool_calls] == [broken["args"]]


@pytest.mark.filterwarnings("ignore::langchain_core._api.beta_decorator.LangChainBetaWarning")
def test_calls_come_out_of_the_newest_events_and_of_content_blocks(make_llm, make_engine):
    llm = make_llm(make_engine("Look", tool_calls=[PARIS]), output_version="v1")
    message = llm.stream_events("Weather?", version="v3").output
    assert message.tool_calls[0]["args"] == {"city": "Paris"}
    blocks = llm.invoke("Weather?").content_blocks
    assert [block["type"] for block in blocks] == ["text", "tool_call"]


def test_a_conversation_with_calls_and_results_goes_to_the_engine(llm, engine):
    call = {"name": "get_weather", "args": {"city": "Paris"}, "id": "1"}
    llm.invoke(
        [HumanMessage("?"), AIMessage("", tool_calls=[call]), ToolMessage("sun", tool_call_id="1")]
    )
    _, assistant, result = engine.calls[-1][0]
    assert assistant["tool_calls"][0]["function"] == {
        "name": "get_weather",
        "arguments": {"city": "Paris"},
    }
    assert result == {"role": "tool", "content": "sun", "tool_call_id": "1", "name": "get_weather"}


def test_results_are_refused_by_a_model_whose_template_has_no_place_for_them(llm, engine):
    engine.supports_tools = False
    call = {"name": "get_weather", "args": {}, "id": "1"}
    with pytest.raises(GenerationError, match="without tool calls"):
        llm.invoke([AIMessage("", tool_calls=[call]), ToolMessage("sun", tool_call_id="1")])


def test_tools_are_counted(llm):
    question = [HumanMessage("one two")]
    counted = llm.get_num_tokens_from_messages(question, tools=[get_weather])
    used = llm.bind_tools([get_weather]).invoke(question).usage_metadata["input_tokens"]
    assert counted == used > llm.get_num_tokens_from_messages(question)


def test_streaming_may_be_switched_off_where_tools_are_bound(make_llm, make_engine):
    llm = make_llm(make_engine("a b c", tool_calls=[PARIS]), disable_streaming="tool_calling")
    assert len(list(llm.stream("Hello"))) > 1
    (whole,) = llm.bind_tools([get_weather]).stream("Hello")
    assert json.loads(json.dumps(whole.tool_calls[0]["args"])) == {"city": "Paris"}
