from __future__ import annotations

import pytest
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    ChatMessage,
    HumanMessage,
    RemoveMessage,
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


CALL = {"name": "add", "args": {"a": 1}, "id": "c1", "type": "tool_call"}
CALLED = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": {"a": 1}}}


def test_calls_and_results_keep_their_ids_and_names():
    messages = [AIMessage("", tool_calls=[CALL]), ToolMessage("3", tool_call_id="c1")]
    assert to_engine_messages(messages) == [
        {"role": "assistant", "content": "", "tool_calls": [CALLED]},
        {"role": "tool", "content": "3", "tool_call_id": "c1", "name": "add"},
    ]


def test_results_stay_messages_of_their_own():
    results = [ToolMessage("3", tool_call_id="c1"), ToolMessage("4", tool_call_id="c2")]
    assert [m["content"] for m in to_engine_messages(results)] == ["3", "4"]


def test_a_result_may_be_a_list_of_text_blocks():
    message = ToolMessage([{"type": "text", "text": "a"}, "b"], tool_call_id="c1", name="add")
    assert to_engine_messages([message])[0]["content"] == "ab"


def test_the_model_reads_that_a_tool_failed():
    failed = ToolMessage("no such city", tool_call_id="c1", status="error")
    assert to_engine_messages([failed])[0]["content"] == "Error: no such city"
    said = ToolMessage("Error: no such city", tool_call_id="c1", status="error")
    assert to_engine_messages([said])[0]["content"] == "Error: no such city"


def test_neighbouring_answers_keep_all_their_calls():
    other = {**CALL, "id": "c2"}
    messages = [AIMessage("a"), AIMessage("", tool_calls=[CALL]), AIMessage("", tool_calls=[other])]
    (merged,) = to_engine_messages(messages)
    assert merged["content"] == "a"
    assert [call["id"] for call in merged["tool_calls"]] == ["c1", "c2"]


def test_another_providers_blocks_of_a_call_are_not_read_twice():
    block = {"type": "tool_use", "id": "c1", "name": "add", "input": {"a": 1}}
    both = AIMessage([{"type": "text", "text": "Hm"}, block], tool_calls=[CALL])
    only_block = AIMessage([{"type": "text", "text": "Hm"}, block])
    expected = [{"role": "assistant", "content": "Hm", "tool_calls": [CALLED]}]
    assert to_engine_messages([both]) == to_engine_messages([only_block]) == expected


def test_an_answer_in_standard_blocks_can_be_sent_back():
    message = AIMessage(content_blocks=[{"type": "text", "text": "Hm"}, {**CALL}])
    (sent,) = to_engine_messages([message])
    assert sent == {"role": "assistant", "content": "Hm", "tool_calls": [CALLED]}


def test_a_call_that_was_cut_off_is_sent_back_as_it_was_written():
    cut = {"name": None, "args": '<tool_call>{"na', "id": None, "error": "cut off"}
    (sent,) = to_engine_messages([AIMessage("Look: ", invalid_tool_calls=[cut])])
    assert sent == {"role": "assistant", "content": 'Look: <tool_call>{"na'}


def test_names_are_kept_and_tell_neighbours_apart():
    assert to_engine_messages([HumanMessage("a", name="Rosa")])[0]["name"] == "Rosa"
    same = [HumanMessage("a", name="Rosa"), HumanMessage("b", name="Rosa")]
    assert to_engine_messages(same) == [{"role": "user", "content": "a\n\nb", "name": "Rosa"}]
    two = [HumanMessage("a", name="Rosa"), HumanMessage("b")]
    assert to_engine_messages(two) == [{"role": "user", "content": "Rosa: a\n\nb"}]


def test_the_messages_themselves_are_left_as_they_are():
    messages = [HumanMessage("a"), HumanMessage("b"), AIMessage("", tool_calls=[CALL])]
    before = [message.model_copy(deep=True) for message in messages]
    to_engine_messages(messages)
    assert messages == before


def test_a_message_that_is_no_part_of_a_conversation_is_refused_by_name():
    with pytest.raises(GenerationError, match="type 'remove'"):
        to_engine_messages([RemoveMessage(id="1")])


def test_no_messages_are_refused():
    with pytest.raises(GenerationError, match="at least one message"):
        to_engine_messages([])
