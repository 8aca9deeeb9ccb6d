"""Function calling, with replies scripted: what the engine is asked, and what is made of calls."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.base.llms.types import TextBlock, ThinkingBlock, ToolCallBlock
from llama_index.core.llms import ChatMessage
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.program import FunctionCallingProgram
from llama_index.core.tools import FunctionTool
from pydantic import BaseModel

from lag_engine import GenerationError

# Workflows read every attribute of an agent, pydantic's deprecated ones too.
pytestmark = pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecationWarning")


def memory():
    """Core's default memory leaves its database open."""
    return ChatMemoryBuffer.from_defaults(token_limit=500)


def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b


ADD = FunctionTool.from_defaults(add)


def call(name="add", number=1, **arguments):
    return SimpleNamespace(id=f"call_{number}", name=name, arguments=arguments)


def calling(*calls, **fields):
    return {"text": "", "tool_calls": calls, "finish_reason": "tool_calls", **fields}


@pytest.fixture
def caller(make_llm, scripted):
    """An LLM whose engine gives these replies, and the engine."""

    def make(*replies, **arguments):
        engine = scripted(*replies)
        return make_llm(engine, **arguments), engine

    return make


def test_tools_reach_the_engine_as_function_schemas(caller):
    llm, engine = caller("no")
    llm.chat_with_tools([ADD], user_msg="1 + 2", chat_history=[ChatMessage(content="Hi")])
    (tool,) = engine.options["tools"]
    assert tool["function"]["name"] == "add"
    assert set(tool["function"]["parameters"]["properties"]) == {"a", "b"}
    assert engine.options["tool_choice"] == "auto"
    assert engine.options["parallel_tool_calls"] is False
    assert engine.prompt == [{"role": "user", "content": "Hi\n\n1 + 2"}]


@pytest.mark.parametrize(
    ("asked", "choice"),
    [
        ({"tool_required": True}, "any"),
        ({"tool_choice": "required"}, "any"),
        ({"tool_choice": "none"}, "none"),
        ({"tool_choice": "add", "tool_required": True}, "add"),
        ({"tool_choice": {"type": "function", "function": {"name": "add"}}}, "add"),
        ({"tool_choice": None}, "auto"),
    ],
)
def test_a_tool_choice_reaches_the_engine(caller, asked, choice):
    llm, engine = caller("no")
    llm.chat_with_tools([ADD], user_msg="1 + 2", **asked)
    assert engine.options["tool_choice"] == choice


def test_a_tool_choice_without_a_name_is_refused(caller):
    llm, _ = caller("no")
    with pytest.raises(GenerationError, match="tool choice such as"):
        llm.chat_with_tools([ADD], user_msg="1 + 2", tool_choice={"type": "function"})


def test_parallel_calls_are_allowed_only_on_request(caller):
    llm, engine = caller(calling(call(a=1, b=2), call(number=2, a=3, b=4)))
    response = llm.chat_with_tools([ADD], user_msg="both", allow_parallel_tool_calls=True)
    assert engine.options["parallel_tool_calls"] is True
    selections = llm.get_tool_calls_from_response(response)
    assert [s.tool_kwargs for s in selections] == [{"a": 1, "b": 2}, {"a": 3, "b": 4}]
    assert [s.tool_id for s in selections] == ["call_1", "call_2"]


def test_an_answer_is_thinking_text_and_tool_call_blocks(caller):
    llm, _ = caller(calling(call(a=1, b=2), text="Sure.", reasoning="Easy."))
    blocks = llm.chat_with_tools([ADD], user_msg="1 + 2").message.blocks
    assert blocks == [
        ThinkingBlock(content="Easy."),
        TextBlock(text="Sure."),
        ToolCallBlock(tool_call_id="call_1", tool_name="add", tool_kwargs={"a": 1, "b": 2}),
    ]


async def test_streams_bring_calls_whole_and_thinking_as_deltas(caller):
    llm, _ = caller(calling(call(a=1, b=2), text="", reasoning="Easy."))
    sync = list(llm.stream_chat_with_tools([ADD], user_msg="1 + 2"))
    stream = await llm.astream_chat_with_tools([ADD], user_msg="1 + 2")
    for responses in (sync, [r async for r in stream]):
        counts = [len(llm.get_tool_calls_from_response(r, False)) for r in responses]
        assert counts == sorted(counts)
        assert counts[-1] == 1
        thoughts = [r.additional_kwargs.get("thinking_delta") or "" for r in responses]
        assert "".join(thoughts) == "Easy."
        assert responses[-1].raw["finish_reason"] == "tool_calls"


def test_no_call_is_an_error_only_where_one_is_expected(caller):
    llm, _ = caller("no idea")
    response = llm.chat_with_tools([ADD], user_msg="1 + 2")
    assert llm.get_tool_calls_from_response(response, error_on_no_tool_call=False) == []
    with pytest.raises(GenerationError, match="no idea"):
        llm.get_tool_calls_from_response(response)


def test_a_call_that_was_cut_is_told(caller):
    llm, _ = caller({"text": "", "broken_tool_call": '{"name": "ad', "finish_reason": "length"})
    response = llm.chat_with_tools([ADD], user_msg="1 + 2")
    assert response.raw["broken_tool_call"] == '{"name": "ad'
    with pytest.raises(GenerationError, match='"ad'):
        llm.get_tool_calls_from_response(response)


async def test_predict_and_call_runs_the_tool(caller):
    llm, _ = caller(calling(call(a=1, b=2)))
    assert llm.predict_and_call([ADD], user_msg="1 + 2").response == "3"
    assert (await llm.apredict_and_call([ADD], user_msg="1 + 2")).response == "3"


class Album(BaseModel):
    """An album."""

    title: str


async def test_function_calling_programs_work_whole_and_streamed(caller):
    llm, engine = caller(calling(call("Album", title="Blue")))
    program = FunctionCallingProgram.from_defaults(
        Album, prompt_template_str="An album about {x}", llm=llm
    )
    assert program(x="the sea") == Album(title="Blue")
    assert engine.options["tool_choice"] == "any"
    assert await program.acall(x="the sea") == Album(title="Blue")
    assert list(program.stream_call(x="the sea"))[-1] == Album(title="Blue")


async def test_a_function_agent_calls_and_answers(caller):
    llm, engine = caller(calling(call(a=1, b=2)), "It is 3.")
    agent = FunctionAgent(tools=[ADD], llm=llm, system_prompt="You add.")
    response = await agent.run("1 + 2", memory=memory())
    assert str(response) == "It is 3."
    assert [c.tool_output.content for c in response.tool_calls] == ["3"]
    assistant, result = engine.prompt[-2:]
    assert assistant["tool_calls"][0]["id"] == result["tool_call_id"] == "call_1"
    assert result == {"role": "tool", "content": "3", "name": "add", "tool_call_id": "call_1"}


async def test_an_agent_without_tools_just_answers(caller):
    llm, engine = caller("Hello.")
    assert str(await FunctionAgent(tools=[], llm=llm).run("Hi", memory=memory())) == "Hello."
    assert "tools" not in engine.options


def test_a_conversation_with_calls_is_refused_by_a_model_that_has_none(caller):
    llm, engine = caller("no")
    engine.supports_tools = False
    assert not llm.metadata.is_function_calling_model
    with pytest.raises(GenerationError, match="without tool calls"):
        llm.chat([ChatMessage(role="tool", content="3")])


async def test_adapters_of_the_llm_hold_inside_an_agent(caller):
    llm, engine = caller(calling(call(a=1, b=2)), "It is 3.")
    pinned = llm.with_adapters(["d1"], mode="prag+lag")
    await FunctionAgent(tools=[ADD], llm=pinned).run("1 + 2", memory=memory())
    assert {options["plan"].key for _, options in engine.calls} == {
        engine.plan("prag+lag", adapters=["d1"]).key
    }
