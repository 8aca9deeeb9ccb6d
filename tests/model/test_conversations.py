"""Conversations with tools: what the template gets, what it refuses, and how many tokens it is."""

from __future__ import annotations

import pytest

from lag_engine.errors import GenerationError
from lag_engine.model.conversations import merged, written_out
from lag_engine.model.tools import HERMES, MISTRAL

ASK = {"role": "user", "content": "Hi"}
CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}}
STRICT = (
    "{% for m in messages %}"
    "{% if not loop.first and m['role'] == messages[loop.index0 - 1]['role'] %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if m['role'] == 'system' and not loop.first %}"
    "{{ raise_exception('system comes first') }}{% endif %}"
    "<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
)


def texts(writer, messages):
    ids = writer.requests.prompts.messages(messages, add_generation_prompt=False)
    return writer.tokenizer.decode(ids, skip_special_tokens=False)


def user(text):
    return {"role": "user", "content": text}


def system(text):
    return {"role": "system", "content": text}


def test_neighbours_of_one_role_are_joined_only_for_a_template_that_refuses_them(
    make_writer, make_tokenizers, byte_tokenizer
):
    messages = [system("a"), system("b"), user("c"), user("d")]
    strict = make_writer(make_tokenizers(STRICT))
    assert texts(strict, messages) == "<|system|>a\n\nb<|end|><|user|>c\n\nd<|end|>"
    apart = "<|system|>a<|end|><|system|>b<|end|><|user|>c<|end|><|user|>d<|end|>"
    assert texts(make_writer(byte_tokenizer), messages) == "<s>" + apart


def test_what_joining_does_not_mend_is_refused_in_the_templates_words(make_writer, make_tokenizers):
    strict = make_writer(make_tokenizers(STRICT))
    with pytest.raises(GenerationError, match="system comes first"):
        texts(strict, [user("a"), system("b"), user("c")])


def test_only_plain_text_of_one_speaker_is_joined():
    call = {"role": "assistant", "content": "", "tool_calls": [CALL]}
    said = {"role": "assistant", "content": "a"}
    result = {"role": "tool", "content": "x", "tool_call_id": "1"}
    kept = [call, said, call, result, result, {**user("a"), "name": "ann"}, user("b")]
    assert merged(kept) == kept
    assert merged([said, said, said]) == [{"role": "assistant", "content": "a\n\na\n\na"}]
    blocks = {"role": "user", "content": [{"type": "text", "text": "a"}]}
    assert merged([blocks, blocks]) == [blocks, blocks]


def test_messages_are_not_changed():
    message = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    written = written_out([message], MISTRAL)
    assert message == {"role": "assistant", "content": None, "tool_calls": [CALL]}
    assert written[0]["content"] == ""


def test_arguments_that_are_json_are_read_before_the_template_writes_them_again():
    call = {**CALL, "function": {"name": "f", "arguments": '{"a": 1}'}}
    said = {"role": "assistant", "content": "", "tool_calls": [call]}
    assert written_out([said], HERMES)[0]["tool_calls"] == [CALL]


@pytest.mark.parametrize(
    "call", [{"function": {"name": "f", "arguments": "[1]"}}, {"name": "f"}, "f", {"function": {}}]
)
def test_a_call_of_another_form_is_refused(call):
    with pytest.raises(GenerationError, match="tool calls like"):
        written_out([{"role": "assistant", "content": "", "tool_calls": [call]}], None)


def test_ids_are_nine_letters_for_templates_of_mistral_and_still_belong_together():
    conversation = [
        {"role": "assistant", "content": "", "tool_calls": [CALL, {**CALL, "id": "abc123def"}]},
        {"role": "tool", "content": "x", "tool_call_id": "call_1"},
    ]
    said, result = written_out(conversation, MISTRAL)
    ids = [call["id"] for call in said["tool_calls"]]
    assert all(len(i) == 9 and i.isalnum() for i in ids)
    assert ids[1] == "abc123def"
    assert result["tool_call_id"] == ids[0]
    assert written_out(conversation, HERMES) == conversation


@pytest.mark.parametrize("name", ["hermes, markers added", "llama", "mistral"])
def test_a_conversation_with_tools_is_rendered_and_counted_exactly(writers, tools, name):
    writer = writers[name]
    conversation = [
        ASK,
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "sunny", "tool_call_id": "call_1", "name": "f"},
    ]
    counted = writer.requests.prompts.messages(conversation, tools=tools)
    request = writer.row(conversation, tools=tools).request
    assert request.prompt_ids == counted
    rendered = writer.tokenizer.decode(counted, skip_special_tokens=False)
    assert "Tells the weather." in rendered
    assert "sunny" in rendered
    assert len(writer.requests.prompts.messages(conversation)) < len(counted)
    assert writer.tokenizer(rendered, add_special_tokens=False)["input_ids"] == list(counted)
