"""POST /v1/chat/completions: the reply is the engine's answer, in OpenAI's form."""

from __future__ import annotations

import pytest

QUESTION = [{"role": "user", "content": "Who is it?"}]


@pytest.mark.parametrize(
    ("model", "mode", "options"),
    [
        ("pico", "base", {}),
        ("lag-auto", "lag", {}),
        ("pico@arrow", "arrow", {}),
        ("pico:doc-1", "prag", {"adapters": ["doc-1"]}),
    ],
)
def test_the_models_name_chooses_the_plan_and_the_answer_is_the_engines(
    served, chat, model, mode, options
):
    reply = chat(model)
    whole = served.generate(QUESTION, plan=served.plan(mode, **options), max_new_tokens=5)
    (choice,) = reply["choices"]
    assert choice["message"]["content"] == whole.text
    assert choice["message"]["role"] == "assistant"
    assert choice["finish_reason"] == whole.finish_reason == "length"
    assert reply["usage"] == {
        "prompt_tokens": whole.usage.prompt_tokens,
        "completion_tokens": 5,
        "total_tokens": whole.usage.total_tokens,
    }
    assert (reply["object"], reply["model"]) == ("chat.completion", model)
    assert choice["lag_routing"]["mode"] == mode
    assert choice["lag_routing"]["plan"] == whole.plan.key


def test_a_stream_joins_to_the_reply(chat, stream):
    fields = {"model": "lag-auto", "temperature": 1.3, "seed": 4, "max_tokens": 20}
    whole = chat(**fields)["choices"][0]
    *chunks, done = stream(**fields)
    assert done == "[DONE]"
    choices = [chunk["choices"][0] for chunk in chunks]
    assert choices[0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(c["delta"].get("content", "") for c in choices) == whole["message"]["content"]
    assert [c["finish_reason"] for c in choices[:-1]] == [None] * (len(choices) - 1)
    assert choices[-1]["delta"] == {}
    assert choices[-1]["finish_reason"] == whole["finish_reason"]
    assert choices[-1]["lag_routing"] == whole["lag_routing"]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert not any("usage" in chunk for chunk in chunks)


def test_a_stream_ends_with_the_usage_if_it_is_asked_for(chat, stream):
    *chunks, usage, done = stream(stream_options={"include_usage": True})
    assert done == "[DONE]"
    assert usage["choices"] == []
    assert usage["usage"] == chat()["usage"]
    assert all(chunk["usage"] is None for chunk in chunks)


def test_sampling_settings_and_stops_reach_the_engine(served, chat):
    settings = {"temperature": 1.5, "top_p": 0.9, "top_k": 50, "seed": 3, "stop": [" ", "e"]}
    whole = served.generate(
        QUESTION, plan="base", max_new_tokens=9, repetition_penalty=1.4, **settings
    )
    reply = chat(max_tokens=None, max_completion_tokens=9, repetition_penalty=1.4, **settings)
    assert reply["choices"][0]["message"]["content"] == whole.text
    assert reply["choices"][0]["finish_reason"] == whole.finish_reason


def test_without_a_limit_an_answer_may_fill_the_context(served, chat):
    reply = chat(max_tokens=None)
    n_free = served.context_length - reply["usage"]["prompt_tokens"]
    ended = reply["choices"][0]["finish_reason"] == "stop"
    assert ended or reply["usage"]["completion_tokens"] == n_free


def test_n_draws_as_many_answers_each_by_a_seed_of_its_own(chat, stream):
    fields = {"temperature": 1.5, "seed": 7}
    reply = chat(n=3, **fields)
    singles = [chat(**fields | {"seed": 7 + i}) for i in range(3)]
    texts = [choice["message"]["content"] for choice in reply["choices"]]
    assert texts == [single["choices"][0]["message"]["content"] for single in singles]
    assert [choice["index"] for choice in reply["choices"]] == [0, 1, 2]
    assert reply["usage"]["prompt_tokens"] == singles[0]["usage"]["prompt_tokens"]
    assert reply["usage"]["completion_tokens"] == 15
    *chunks, _ = stream(n=3, **fields)
    for i, text in enumerate(texts):
        deltas = [c["choices"][0] for c in chunks if c["choices"][0]["index"] == i]
        assert "".join(delta["delta"].get("content", "") for delta in deltas) == text


@pytest.mark.parametrize(("detail", "told"), [("none", False), ("summary", True), ("full", True)])
def test_a_request_says_how_much_of_the_routing_it_wants(chat, detail, told):
    routing = chat("lag-auto", lag={"trace": detail})["choices"][0]["lag_routing"]
    assert ("slots" in routing) == told
    assert ("trace" in routing) == (detail == "full")


def test_mode_adapters_and_options_of_the_request_make_the_plan(served, chat):
    asked = {
        "mode": "prag+lag",
        "adapters": {"doc-1": 0.5},
        "options": {"retrieve_k": 2, "approximate": True},
    }
    routing = chat("lag-auto", lag=asked)["choices"][0]["lag_routing"]
    plan = served.plan("prag+lag", adapters={"doc-1": 0.5}, retrieve_k=2, approximate=True)
    assert routing["plan"] == plan.key
    (knowledge,) = routing["slots"]["knowledge"]["adapters"]
    assert knowledge == {"adapter": "doc-1", "share": 1.0}


def test_parts_are_joined_and_a_developer_speaks_as_the_system(served, chat):
    parts = [{"type": "text", "text": "Who is"}, {"type": "text", "text": " it?"}]
    messages = [{"role": "developer", "content": "Brief."}, {"role": "user", "content": parts}]
    same = [{"role": "system", "content": "Brief."}, {"role": "user", "content": "Who is it?"}]
    assert chat(messages=messages)["usage"]["prompt_tokens"] == len(served.tokenize_messages(same))
    assert chat(messages=messages)["choices"] == chat(messages=same)["choices"]


def test_unknown_fields_are_ignored_and_named(client, chat):
    body = {"model": "pico", "messages": QUESTION, "max_tokens": 5, "user": "me", "stören\n": 1}
    reply = client.post("/v1/chat/completions", json=body)
    assert reply.json()["choices"] == chat()["choices"]
    assert reply.headers["x-lag-ignored-fields"] == r"st\xf6ren\n, user"


def test_neutral_values_of_unsupported_fields_are_accepted(chat):
    assert "choices" in chat(frequency_penalty=0, logit_bias=None, modalities=["text"])
