"""Engines behind an HTTP client that runs the application in this process."""

from __future__ import annotations

import json

import pytest
from starlette.testclient import TestClient

from lag_engine import LAGEngine
from lag_engine.serving import create_app

CHAT = "/v1/chat/completions"
QUESTION = [{"role": "user", "content": "Who is it?"}]


@pytest.fixture(scope="session")
def served(on_disk):
    """A random model called `pico`, with `qa`, `slots` and three documents."""
    with LAGEngine.from_pretrained(on_disk.model, library=on_disk.library) as engine:
        yield engine


@pytest.fixture
def client(served):
    return TestClient(create_app(served, served_name="pico"))


@pytest.fixture
def chat(client):
    """Asks for a short answer; returns the reply's JSON, or its error."""

    def ask(model="pico", messages=QUESTION, **fields):
        body = {"model": model, "messages": messages, "max_tokens": 5, **fields}
        return client.post(CHAT, json=body).json()

    return ask


@pytest.fixture
def stream(client):
    """Asks for a stream; returns its events, the last as the text it is."""

    def ask(path=CHAT, **fields):
        body = {"model": "pico", "max_tokens": 5, "stream": True, **fields}
        if path == CHAT:
            body.setdefault("messages", QUESTION)
        reply = client.post(path, json=body)
        assert reply.headers["content-type"].startswith("text/event-stream")
        events = reply.text.split("\n\n")
        assert events.pop() == ""
        assert all(event.startswith("data: ") for event in events)
        contents = [event.removeprefix("data: ") for event in events]
        return [*map(json.loads, contents[:-1]), contents[-1]]

    return ask
