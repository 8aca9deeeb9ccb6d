from __future__ import annotations

import pytest
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    ChatMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)

from lag_engine import GenerationError
from lag_integrations.langchain.messages import to_engine_messages


def test_roles_and_contents_are_kept_in_order():
    messages = [SystemMessage("s"), HumanMessage("h"), AIMessage("a"), HumanMessage("h2")]
    assert to_engine_messages(messages) == [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "h"},
        {"role": "assistant", "content": "a"},
        {"role": "user", "content": "h2"},
    ]


def test_neighbours_of_one_role_become_one_message():
    messages = [HumanMessage("one"), HumanMessage("two")]
    assert to_engine_messages(messages) == [{"role": "user", "content": "one\n\ntwo"}]


def test_text_blocks_are_joined_and_reasoning_left_out():
    blocks = [{"type": "text", "text": "a"}, {"type": "reasoning", "reasoning": "x"}, "b"]
    assert to_engine_messages([AIMessage(blocks)])[0]["content"] == "ab"


def test_a_streamed_answer_can_be_sent_back():
    assert to_engine_messages([AIMessageChunk("a")]) == [{"role": "assistant", "content": "a"}]


def test_a_chat_message_keeps_its_own_role():
    message = ChatMessage(role="critic", content="c")
    assert to_engine_messages([message]) == [{"role": "critic", "content": "c"}]


def test_an_image_is_refused_by_name():
    block = {"type": "image", "url": "http://example.org/a.png"}
    with pytest.raises(GenerationError, match="block of type 'image'"):
        to_engine_messages([HumanMessage([block])])


def test_tool_messages_are_refused_by_name():
    with pytest.raises(GenerationError, match="type 'tool'"):
        to_engine_messages([ToolMessage("x", tool_call_id="1")])


def test_no_messages_are_refused():
    with pytest.raises(GenerationError, match="at least one message"):
        to_engine_messages([])
