"""Structured prediction and function calling."""

from __future__ import annotations

from typing import Any

import pytest
from llama_index.core import PromptTemplate
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ToolCallBlock,
)
from llama_index.core.llms import LLM

from tests.llama_index.conformance.suite import (
    TIME,
    WEATHER,
    Base,
    Weather,
    drain,
    memory,
    usage_of,
    user,
)


class Structured(Base):
    """Structured prediction."""

    prompt = PromptTemplate("What is the weather in {city}?")

    async def test_structured_predict_gives_an_instance(self, structured_llm: LLM) -> None:
        assert isinstance(
            structured_llm.structured_predict(Weather, self.prompt, city="Oslo"), Weather
        )
        told = await structured_llm.astructured_predict(Weather, self.prompt, city="Oslo")
        assert isinstance(told, Weather)

    async def test_structured_streams_end_with_an_instance(self, structured_llm: LLM) -> None:
        whole = structured_llm.structured_predict(Weather, self.prompt, city="Oslo")
        parts = list(structured_llm.stream_structured_predict(Weather, self.prompt, city="Oslo"))
        stream = await structured_llm.astream_structured_predict(Weather, self.prompt, city="Oslo")
        for partial in (parts[-1], (await drain(stream))[-1]):
            assert isinstance(partial, Weather)
            assert partial == whole or not self.is_deterministic

    async def test_a_structured_llm_answers_with_instances(self, structured_llm: LLM) -> None:
        structured = structured_llm.as_structured_llm(Weather)
        assert isinstance(structured.chat(user("The weather in Oslo")).raw, Weather)
        assert isinstance((await structured.achat(user("The weather in Oslo"))).raw, Weather)


@pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecationWarning")
class Tools(Base):
    """Function calling."""

    question_for_tool = "What is the weather in Paris?"

    async def test_a_required_call_comes_with_arguments_of_the_schema(self, tool_llm: LLM) -> None:
        call: dict[str, Any] = {"user_msg": self.question_for_tool, "tool_required": True}
        llm: Any = tool_llm
        stream = await llm.astream_chat_with_tools([WEATHER], **call)
        for response in (
            llm.chat_with_tools([WEATHER], **call),
            await llm.achat_with_tools([WEATHER], **call),
            list(llm.stream_chat_with_tools([WEATHER], **call))[-1],
            (await drain(stream))[-1],
        ):
            (selection,) = llm.get_tool_calls_from_response(response)
            assert selection.tool_name == "get_weather"
            assert set(selection.tool_kwargs) == {"city"}
            assert isinstance(selection.tool_kwargs["city"], str)
            assert selection.tool_id
            blocks = [b for b in response.message.blocks if isinstance(b, ToolCallBlock)]
            assert [block.tool_name for block in blocks] == ["get_weather"]

    def test_a_named_tool_is_the_one_that_is_called(self, tool_llm: LLM) -> None:
        llm: Any = tool_llm
        for name in ("get_time", "get_weather"):
            response = llm.chat_with_tools(
                [WEATHER, TIME], user_msg=self.question_for_tool, tool_choice=name
            )
            assert [s.tool_name for s in llm.get_tool_calls_from_response(response)] == [name]

    def test_one_call_at_a_time_unless_parallel_calls_are_allowed(self, tool_llm: LLM) -> None:
        llm: Any = tool_llm
        response = llm.chat_with_tools(
            [WEATHER], user_msg="The weather in Paris and in Oslo?", tool_required=True
        )
        assert len(llm.get_tool_calls_from_response(response)) == 1

    def test_no_call_is_an_error_only_if_one_is_asked_for(self, tool_llm: LLM) -> None:
        llm: Any = tool_llm
        response = llm.chat(user(self.question))
        assert llm.get_tool_calls_from_response(response, error_on_no_tool_call=False) == []
        with pytest.raises(Exception):  # noqa: B017
            llm.get_tool_calls_from_response(response, error_on_no_tool_call=True)

    def test_tools_are_part_of_what_is_read(self, tool_llm: LLM) -> None:
        if not self.returns_usage:
            pytest.skip("`returns_usage` is False")
        llm: Any = tool_llm
        plain = usage_of(llm.chat(user(self.question_for_tool)))
        offered = usage_of(llm.chat_with_tools([WEATHER], user_msg=self.question_for_tool))
        assert offered["prompt_tokens"] > plain["prompt_tokens"]

    def test_calls_and_results_in_a_conversation_are_read(self, tool_llm: LLM) -> None:
        call = ToolCallBlock(
            tool_call_id="call_1", tool_name="get_weather", tool_kwargs={"city": "Paris"}
        )
        conversation = [
            *user(self.question_for_tool),
            ChatMessage(role="assistant", blocks=[call]),
            ChatMessage(role="tool", content="Sunny", additional_kwargs={"tool_call_id": "call_1"}),
        ]
        llm: Any = tool_llm
        assert isinstance(llm.chat_with_tools([WEATHER], chat_history=conversation), ChatResponse)

    async def test_predict_and_call_runs_the_tool(self, tool_llm: LLM) -> None:
        call: dict[str, Any] = {"user_msg": self.question_for_tool, "tool_required": True}
        llm: Any = tool_llm
        assert llm.predict_and_call([WEATHER], **call).response.startswith("Sunny in ")
        answer = await llm.apredict_and_call([WEATHER], **call)
        assert answer.response.startswith("Sunny in ")

    async def test_a_function_agent_comes_to_an_end(self, tool_llm: LLM) -> None:
        agent = FunctionAgent(tools=[WEATHER], llm=tool_llm, initial_tool_choice="get_weather")
        response = await agent.run(self.question_for_tool, memory=memory(), max_iterations=5)
        assert response.tool_calls
        assert response.tool_calls[0].tool_output.content.startswith("Sunny in ")
