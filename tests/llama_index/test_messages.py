from __future__ import annotations

import pytest
from llama_index.core.base.llms.types import (
    AudioBlock,
    CacheControl,
    CachePoint,
    ChatMessage,
    CitableBlock,
    CitationBlock,
    DocumentBlock,
    ImageBlock,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
    VideoBlock,
)

from lag_engine import GenerationError
from lag_integrations.llama_index.messages import to_engine_messages


def test_roles_and_neighbours_become_what_any_template_takes():
    messages = [
        ChatMessage(role="developer", content="a"),
        ChatMessage(role="system", content="b"),
        ChatMessage(role="user", content="c"),
        ChatMessage(role="user", content="d"),
        ChatMessage(role="model", content="e"),
    ]
    assert to_engine_messages(messages) == [
        {"role": "system", "content": "a\n\nb"},
        {"role": "user", "content": "c\n\nd"},
        {"role": "assistant", "content": "e"},
    ]


def test_text_blocks_join_as_content_does_and_thinking_is_left_out():
    message = ChatMessage(
        role="assistant",
        blocks=[ThinkingBlock(content="hm"), TextBlock(text="a"), TextBlock(text="b")],
    )
    assert to_engine_messages([message]) == [{"role": "assistant", "content": message.content}]


def test_tool_calls_and_results_keep_their_ids():
    call = ToolCallBlock(tool_call_id="call_1", tool_name="add", tool_kwargs={"a": 1})
    other = ToolCallBlock(tool_call_id="call_2", tool_name="add", tool_kwargs='{"a": 2}')
    messages = [
        ChatMessage(role="assistant", blocks=[call]),
        ChatMessage(role="assistant", blocks=[TextBlock(text="and"), other]),
        ChatMessage(role="tool", content="1", additional_kwargs={"tool_call_id": "call_1"}),
        ChatMessage(role="tool", content="2", additional_kwargs={"tool_call_id": "call_2"}),
    ]
    assistant, first, second = to_engine_messages(messages)
    calls = assistant["tool_calls"]
    assert assistant["content"] == "and"
    assert [c["id"] for c in calls] == ["call_1", "call_2"]
    assert [c["function"]["arguments"] for c in calls] == [{"a": 1}, '{"a": 2}']
    assert first == {"role": "tool", "content": "1", "name": "add", "tool_call_id": "call_1"}
    assert second["tool_call_id"] == "call_2"


def test_calls_that_another_llm_left_in_openais_form_are_read():
    said = {"id": "x", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    message = ChatMessage(role="assistant", content="", additional_kwargs={"tool_calls": [said]})
    (call,) = to_engine_messages([message])[0]["tool_calls"]
    assert call["function"] == said["function"]
    strange = ChatMessage(role="assistant", additional_kwargs={"tool_calls": ["add(1)"]})
    with pytest.raises(GenerationError, match="OpenAI's form"):
        to_engine_messages([strange])


@pytest.mark.parametrize(
    "block",
    [
        ImageBlock(url="http://localhost/a.png"),
        AudioBlock(url="http://localhost/a.wav"),
        VideoBlock(url="http://localhost/a.mp4"),
        DocumentBlock(url="http://localhost/a.pdf"),
        CachePoint(cache_control=CacheControl(type="ephemeral")),
        CitableBlock(title="t", source="s", content=[TextBlock(text="x")]),
        CitationBlock(
            cited_content=TextBlock(text="x"), source="s", title="t", additional_location_info={}
        ),
    ],
    ids=lambda block: block.block_type,
)
def test_unsupported_blocks_are_rejected_loudly(block):
    with pytest.raises(GenerationError, match=f"type '{block.block_type}'"):
        to_engine_messages([ChatMessage(blocks=[TextBlock(text="a"), block])])


def test_a_conversation_without_messages_is_refused():
    with pytest.raises(GenerationError, match="at least one message"):
        to_engine_messages([])


def test_arguments_that_are_no_json_are_refused_by_the_engine(tiny_llm):
    block = ToolCallBlock(tool_name="add", tool_kwargs="{a")
    with pytest.raises(GenerationError, match="Pass the arguments as a mapping"):
        tiny_llm.chat([ChatMessage(role="assistant", blocks=[block])])
