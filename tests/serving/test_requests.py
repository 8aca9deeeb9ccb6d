"""What cannot be answered: told with the right status, in OpenAI's form, in three parts."""

from __future__ import annotations

import pytest
from starlette.testclient import TestClient

from lag_engine import LAGEngine
from lag_engine.serving import create_app

CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "Hello."}]


def call(arguments):
    function = {"name": "f", "arguments": arguments}
    return {
        "role": "assistant",
        "tool_calls": [{"id": "1", "type": "function", "function": function}],
    }


IMAGE = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}


@pytest.mark.parametrize(
    ("fields", "status", "code", "words"),
    [
        ({"model": "gpt-4"}, 404, "model_not_found", "lists every name"),
        ({"model": "pico:doc-9"}, 404, "model_not_found", "Did you mean 'doc-0'"),
        ({"model": "pico@dyprag"}, 404, "model_not_found", "pico@dyprag"),
        ({"lag": {"adapters": ["nobody"]}}, 404, "model_not_found", "'nobody'"),
        ({"lag": {"mode": "nonsense"}}, 400, "invalid_plan", "nonsense"),
        ({"model": "pico@prag"}, 400, "invalid_plan", "pinned adapters"),
        ({"model": "pico@lag", "lag": {"mode": "rag"}}, 400, "invalid_plan", "one of the two"),
        ({"model": "pico:qa", "lag": {"adapters": "qa"}}, 400, "invalid_plan", "one of the two"),
        ({"lag": {"mode": "lag", "options": {"score": "x"}}}, 400, "invalid_plan", "score"),
        ({"messages": [HELLO[0]] * 60}, 400, "context_length_exceeded", "nothing is ever cut"),
        ({"temperature": -1}, 400, None, "`temperature`"),
        ({"top_p": 0}, 400, None, "`top_p`"),
        ({"stop": [""]}, 400, None, "`stop`"),
        ({"logit_bias": {"5": 1}}, 400, None, "without `logit_bias`"),
        ({"presence_penalty": 0.5}, 400, None, "without `presence_penalty`"),
        ({"messages": [{"role": "king", "content": "x"}]}, 400, None, "messages[0]"),
        ({"messages": [*HELLO, IMAGE]}, 400, None, "messages[1]"),
        ({"messages": [*HELLO, call("{")]}, 400, None, "messages[1].tool_calls[0]"),
        ({"messages": [*HELLO, call("[1]")]}, 400, None, "JSON object"),
        ({"tool_choice": "required"}, 400, None, "`tool_choice`"),
        ({"tools": [{"type": "custom"}]}, 400, None, "tools[0]"),
        ({"response_format": {"type": "xml"}}, 400, None, "`response_format`"),
        ({"response_format": {"type": "json_schema"}}, 400, None, "`response_format`"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)
@pytest.mark.parametrize("streams", [False, True])
def test_a_mistake_is_told_before_anything_is_sent(client, fields, status, code, words, streams):
    body = {"model": "pico", "messages": HELLO, "max_tokens": 2, "stream": streams, **fields}
    reply = client.post(CHAT, json=body)
    assert reply.status_code == status
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["code"]) == ("invalid_request_error", code)
    assert words in error["message"]
    assert len(error["message"].split(". ")) >= 2


@pytest.mark.parametrize(
    ("fields", "param", "found"),
    [
        ({"messages": []}, "messages", "[]"),
        ({"messages": None}, "messages", "None"),
        ({"model": 5}, "model", "5"),
        ({"n": 0}, "n", "0"),
        ({"max_tokens": 0}, "max_tokens", "0"),
        ({"top_logprobs": 21}, "top_logprobs", "21"),
        ({"lag": {"adaptors": ["qa"]}}, "lag.adaptors", "['qa']"),
        ({"lag": {"options": {"k": 1}}}, "lag.options.k", "1"),
        ({"lag": {"trace": "all"}}, "lag.trace", "'all'"),
    ],
    ids=str,
)
def test_a_malformed_request_names_its_field_and_what_stands_there(client, fields, param, found):
    reply = client.post(CHAT, json={"model": "pico", "messages": HELLO, **fields})
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert error["param"] == param
    assert f"`{param}`" in error["message"]
    assert f"Found: {found}. " in error["message"]


def test_what_is_no_json_is_told_as_such(client):
    reply = client.post(CHAT, content=b"{", headers={"content-type": "application/json"})
    assert reply.status_code == 400
    assert "JSON" in reply.json()["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/v1/nothing", 404), ("GET", CHAT, 405)]
)
def test_other_paths_and_methods_are_errors_of_the_same_form(client, method, path, status):
    reply = client.request(method, path)
    assert reply.status_code == status
    assert path in reply.json()["error"]["message"]


def test_a_closed_engine_is_the_servers_trouble_and_not_the_clients(on_disk):
    engine = LAGEngine.from_pretrained(on_disk.model, library=on_disk.library)
    client = TestClient(create_app(engine, served_name="pico"), raise_server_exceptions=False)
    assert client.get("/health").json() == {"status": "ok"}
    engine.close()
    assert client.get("/health").status_code == 503
    reply = client.post(CHAT, json={"model": "pico", "messages": HELLO})
    assert reply.status_code == 503
    assert reply.json()["error"]["type"] == "server_error"


def test_what_fails_inside_is_told_to_the_log_and_not_to_the_client(served, monkeypatch, caplog):
    def fail(*args, **kwargs):
        raise ZeroDivisionError("secret")

    client = TestClient(create_app(served, served_name="pico"), raise_server_exceptions=False)
    monkeypatch.setattr(served, "stream", fail)
    reply = client.post(CHAT, json={"model": "pico", "messages": HELLO})
    assert reply.status_code == 500
    assert "secret" not in reply.text
    assert "secret" in caplog.text


def test_an_error_in_the_middle_of_a_stream_is_its_last_event(served, stream, monkeypatch):
    original = served.stream

    def breaking(*args, **kwargs):
        pieces = original(*args, **kwargs)
        yield next(pieces)
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(served, "stream", breaking)
    *chunks, error, done = stream(max_tokens=20)
    assert done == "[DONE]"
    assert error["error"]["type"] == "server_error"
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"


def test_a_body_that_is_no_json_is_told_by_the_character(client):
    reply = client.post(
        "/v1/chat/completions", content="{bad", headers={"content-type": "application/json"}
    )
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert "JSON decode error at character 1" in error["message"]
    assert error["param"] is None
