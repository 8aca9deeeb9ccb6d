"""OpenAI's own client against the shipped model: what it sends is understood, and it reads us."""

from __future__ import annotations

import openai
import pytest
from starlette.testclient import TestClient

from lag_engine import LAGEngine, tiny
from lag_engine.serving import create_app


@pytest.fixture(scope="module")
def engine():
    with LAGEngine.from_pretrained("lag-tiny") as engine:
        yield engine


@pytest.fixture(scope="module")
def client(engine):
    transport = TestClient(create_app(engine), base_url="http://lag/v1")
    return openai.OpenAI(base_url="http://lag/v1", api_key="none", http_client=transport)


@pytest.fixture(scope="module")
def question():
    """One that a document's adapter answers."""
    return next(q for q in tiny.questions() if q.task == "open_qa")


def test_a_chat_answers_as_the_engine_does(client, engine, question):
    messages = [{"role": "user", "content": question.prompt}]
    reply = client.chat.completions.create(model="lag-auto", messages=messages, max_tokens=20)
    whole = engine.generate(messages, plan="lag", max_new_tokens=20)
    assert reply.choices[0].message.content == whole.text
    assert reply.usage.total_tokens == whole.usage.total_tokens
    assert reply.choices[0].lag_routing["mode"] == "lag"
