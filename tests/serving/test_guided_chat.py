"""Tool calls, guided formats, reasoning and log-probabilities, in replies and in streams."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import chain

import pytest
import torch
from starlette.testclient import TestClient
from transformers import LlamaConfig, LlamaForCausalLM

from lag_engine import LAGEngine
from lag_engine.serving import create_app
from lag_engine.tiny.tokenizer import build_tokenizer

CHAT = "/v1/chat/completions"
QUESTION = [{"role": "user", "content": "Is it warm?"}]
TEMPLATE = (
    "{{ bos_token }}{% if tools %}{{ tools | tojson }}{% endif %}"
    "{% for m in messages %}{{ m.role }}: {{ m.content }}"
    "{% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)


def tool(name, **properties):
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    function = {"name": name, "description": "A tool.", "parameters": parameters}
    return {"type": "function", "function": function}


TOOLS = [tool("heat", on={"type": "boolean"}), tool("set", degrees={"enum": [18, 21]})]


def random_engine(template):
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    tokenizer.chat_template = template
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=1024,
    )
    return LAGEngine(LlamaForCausalLM(config), tokenizer, name="random")


@pytest.fixture(scope="module")
def engine():
    """A random model whose template knows tools."""
    with random_engine(TEMPLATE) as engine:
        yield engine


@pytest.fixture
def client(engine):
    return TestClient(create_app(engine))


@pytest.fixture
def ask(client):
    """Returns the one choice of a reply."""

    def post(**fields):
        body = {"model": "random", "messages": QUESTION, "max_tokens": 60, **fields}
        reply = client.post(CHAT, json=body).json()
        assert "error" not in reply, reply
        return reply["choices"][0]

    return post


@pytest.fixture
def deltas(client):
    """Returns the choices of a stream's chunks."""

    def post(**fields):
        body = {"model": "random", "messages": QUESTION, "max_tokens": 60, **fields}
        events = client.post(CHAT, json={**body, "stream": True}).text.split("\n\n")[:-2]
        return [json.loads(event.removeprefix("data: "))["choices"][0] for event in events]

    return post


@pytest.fixture
def forced(engine):
    """Makes the model write the given text and end."""
    handles = []

    def force(text):
        ids = [*engine.tokenizer(text, add_special_tokens=False)["input_ids"]]
        ids += [engine.tokenizer.eos_token_id]
        steps = iter(range(10_000))

        def hook(module, args, output):
            output.logits[:, -1, ids[min(next(steps), len(ids) - 1)]] = 1e9

        handles.append(engine.model.register_forward_hook(hook))

    yield force
    for handle in handles:
        handle.remove()


def without_id(call):
    assert call["id"].startswith("call_")
    return {key: value for key, value in call.items() if key not in ("id", "index")}


def test_a_required_call_is_one_of_an_offered_tool_with_arguments_of_its_schema(ask):
    choice = ask(tools=TOOLS, tool_choice="required", parallel_tool_calls=False)
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    (call,) = choice["message"]["tool_calls"]
    assert call["type"] == "function"
    arguments = json.loads(call["function"]["arguments"])
    allowed = {"heat": [{"on": True}, {"on": False}], "set": [{"degrees": 18}, {"degrees": 21}]}
    assert arguments in allowed[call["function"]["name"]]


@pytest.mark.parametrize("name", ["heat", "set"])
def test_a_named_tool_is_the_one_that_is_called(ask, name):
    choice = ask(tools=TOOLS, tool_choice={"type": "function", "function": {"name": name}})
    assert [call["function"]["name"] for call in choice["message"]["tool_calls"]] == [name]


def test_without_a_choice_the_model_may_answer_in_text(ask, forced):
    forced("It is warm.")
    choice = ask(tools=TOOLS)
    assert choice["message"]["content"].strip() == "It is warm."
    assert choice["finish_reason"] == "stop"
    assert "tool_calls" not in choice["message"]


def test_a_stream_tells_text_and_each_call_once_and_numbers_the_calls(deltas, forced):
    heat = '<tool_call>{"name": "heat", "arguments": {"on": true}}</tool_call>'
    set_ = '<tool_call>{"name": "set", "arguments": {"degrees": 21}}</tool_call>'
    forced(f"Yes.{heat}{set_}")
    choices = deltas(tools=TOOLS, max_tokens=200)
    assert "".join(c["delta"].get("content") or "" for c in choices).strip() == "Yes."
    calls = [call for c in choices for call in c["delta"].get("tool_calls", [])]
    assert [call["index"] for call in calls] == [0, 1]
    assert [without_id(call) for call in calls] == [
        {"type": "function", "function": {"name": "heat", "arguments": '{"on": true}'}},
        {"type": "function", "function": {"name": "set", "arguments": '{"degrees": 21}'}},
    ]
    assert choices[-1]["finish_reason"] == "tool_calls"


def test_a_call_that_the_limit_cuts_is_no_call_and_is_shown_as_it_is(ask, deltas):
    fields = {"tools": TOOLS, "tool_choice": "required", "max_tokens": 5}
    choice = ask(**fields)
    assert choice["finish_reason"] == "length"
    assert "tool_calls" not in choice["message"]
    broken = choice["message"]["broken_tool_call"]
    assert broken.startswith("<tool_call>")
    assert deltas(**fields)[-1]["delta"] == {"broken_tool_call": broken}


def test_calls_and_results_of_earlier_turns_are_read_by_the_template(engine, client):
    call = {"id": "call_1", "type": "function"}
    sent = {"name": "heat", "arguments": '{"on": true}'}
    read = {"name": "heat", "arguments": {"on": True}}
    result = {"role": "tool", "tool_call_id": "call_1", "content": "warm"}

    def conversation(function, content):
        turn = {
            "role": "assistant",
            "content": content,
            "tool_calls": [call | {"function": function}],
        }
        return [*QUESTION, turn, result]

    body = {"model": "random", "messages": conversation(sent, None), "tools": TOOLS}
    reply = client.post(CHAT, json={**body, "max_tokens": 1}).json()
    ids = engine.tokenize_messages(conversation(read, ""), tools=TOOLS)
    assert reply["usage"]["prompt_tokens"] == len(ids)


def test_a_model_that_knows_no_tools_says_so():
    template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    with random_engine(template) as engine:
        client = TestClient(create_app(engine))
        body = {"model": "random", "messages": QUESTION, "tools": TOOLS}
        reply = client.post(CHAT, json=body)
    assert reply.status_code == 400
    assert "tools" in reply.json()["error"]["message"]


def test_a_json_schema_is_matched(ask):
    properties = {"town": {"enum": ["Oslo", "Rome"]}, "warm": {"type": "boolean"}}
    schema = {"type": "object", "properties": properties, "required": ["town", "warm"]}
    asked = {"type": "json_schema", "json_schema": {"name": "place", "schema": schema}}
    answer = json.loads(ask(response_format=asked)["message"]["content"])
    assert answer["town"] in ("Oslo", "Rome")
    assert answer["warm"] in (True, False)


def test_a_json_object_is_matched(ask, forced):
    forced('{"a": 1}')
    assert ask(response_format={"type": "json_object"})["message"]["content"] == '{"a": 1}'
    assert ask(response_format={"type": "text"})["finish_reason"] in ("stop", "length")


def test_log_probabilities_are_the_engines_in_replies_and_in_streams(engine, ask, deltas):
    fields = {"logprobs": True, "top_logprobs": 2, "temperature": 1.0, "seed": 1, "max_tokens": 8}
    whole = engine.generate(
        QUESTION, plan="base", logprobs=2, temperature=1.0, seed=1, max_new_tokens=8
    )
    content = ask(**fields)["logprobs"]["content"]
    assert [entry["token"] for entry in content] == [token.text for token in whole.logprobs]
    assert [e["logprob"] for e in content] == pytest.approx([t.logprob for t in whole.logprobs])
    assert all(len(entry["top_logprobs"]) == 2 for entry in content)
    assert all(bytes(e["bytes"]).decode() == e["token"] for e in content if e["bytes"])
    parts = [choice["logprobs"]["content"] for choice in deltas(**fields) if choice["logprobs"]]
    assert [*chain(*parts)] == content
    assert ask()["logprobs"] is None


def test_log_probabilities_of_a_completion_say_where_each_token_begins(client):
    body = {"model": "random", "prompt": "It is", "logprobs": 1, "max_tokens": 6}
    whole = client.post("/v1/completions", json=body).json()["choices"][0]["logprobs"]
    ends = [o + len(t) for o, t in zip(whole["text_offset"], whole["tokens"], strict=True)]
    assert whole["text_offset"] == [0, *ends[:-1]]
    assert all(lp <= 0 for lp in whole["token_logprobs"])
    events = client.post("/v1/completions", json={**body, "stream": True}).text.split("\n\n")[:-2]
    parts = [json.loads(e.removeprefix("data: "))["choices"][0]["logprobs"] for e in events]
    for name in ("tokens", "token_logprobs", "text_offset"):
        assert [*chain(*(part[name] for part in parts if part))] == whole[name]


def test_reasoning_stands_apart_from_the_answer(engine, ask, deltas, monkeypatch):
    original = engine.stream

    def reasoning(*args, **kwargs):
        for piece in original(*args, **kwargs):
            if piece.generation is None:
                yield piece
            else:
                thought = replace(piece.generation, reasoning="Well.")
                yield replace(piece, reasoning="Well.", generation=thought)

    monkeypatch.setattr(engine, "stream", reasoning)
    assert ask(max_tokens=4)["message"]["reasoning_content"] == "Well."
    choices = deltas(max_tokens=4)
    assert "".join(c["delta"].get("reasoning_content", "") for c in choices) == "Well."
