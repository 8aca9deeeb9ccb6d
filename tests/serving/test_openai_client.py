"""OpenAI's own client against the shipped model: what it sends is understood, and it reads us."""

from __future__ import annotations

import json

import openai
import pytest
from starlette.testclient import TestClient

from lag_engine import LAGEngine, tiny
from lag_engine.serving import create_app

SCHEMA = {
    "type": "object",
    "properties": {"employer": {"type": "string", "maxLength": 20}},
    "required": ["employer"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def engine():
    with LAGEngine.from_pretrained("lag-tiny") as engine:
        yield engine


@pytest.fixture(scope="module")
def client(engine):
    transport = TestClient(create_app(engine), base_url="http://lag/v1")
    return openai.OpenAI(
        base_url="http://lag/v1", api_key="none", http_client=transport, max_retries=0
    )


@pytest.fixture(scope="module")
def question():
    """One that a document's adapter answers."""
    return next(q for q in tiny.questions() if q.task == "open_qa")


@pytest.fixture
def messages(question):
    return [{"role": "user", "content": question.prompt}]


def test_a_chat_answers_as_the_engine_does(client, engine, messages):
    reply = client.chat.completions.create(model="lag-auto", messages=messages, max_tokens=20)
    whole = engine.generate(messages, plan="lag", max_new_tokens=20)
    assert reply.choices[0].message.content == whole.text
    assert reply.choices[0].finish_reason == whole.finish_reason
    assert reply.usage.total_tokens == whole.usage.total_tokens
    assert reply.choices[0].lag_routing["mode"] == "lag"


def test_the_right_documents_adapter_answers_and_the_base_model_does_not(
    client, messages, question
):
    def answer(model, **lag):
        reply = client.chat.completions.create(
            model=model, messages=messages, extra_body={"lag": lag}
        )
        return reply.choices[0].message.content.strip()

    assert answer(f"lag-tiny:doc-{question.document_id}", mode="prag+lag") == question.answer
    assert answer("lag-tiny") != question.answer


def test_a_stream_is_read_with_its_usage(client, messages):
    fields = {"model": "lag-auto", "messages": messages, "max_tokens": 20}
    whole = client.chat.completions.create(**fields)
    chunks = list(
        client.chat.completions.create(
            **fields, stream=True, stream_options={"include_usage": True}
        )
    )
    deltas = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(deltas) == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage


def test_the_clients_own_stream_helper_joins_the_chunks(client, messages):
    with client.chat.completions.stream(model="lag-auto", messages=messages) as stream:
        final = stream.get_final_completion()
    whole = client.chat.completions.create(model="lag-auto", messages=messages)
    assert final.choices[0].message.content == whole.choices[0].message.content
    assert final.choices[0].finish_reason == whole.choices[0].finish_reason


def test_a_schema_and_log_probabilities_are_read(client, messages):
    reply = client.chat.completions.create(
        model="lag-tiny",
        messages=messages,
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True},
        },
        logprobs=True,
        top_logprobs=1,
    )
    answer = json.loads(reply.choices[0].message.content)
    assert len(answer["employer"]) <= 20
    tokens = reply.choices[0].logprobs.content
    assert len(tokens) == reply.usage.completion_tokens
    assert all(token.logprob <= 0 for token in tokens)


def test_a_completion_and_the_models_are_read(client, engine):
    reply = client.completions.create(model="lag-tiny", prompt="Rosa", max_tokens=3)
    assert reply.choices[0].text == engine.generate("Rosa", plan="base", max_new_tokens=3).text
    models = [model.id for model in client.models.list()]
    assert models[:2] == ["lag-tiny", "lag-auto"]
    assert len([name for name in models if name.startswith("lag-tiny:")]) == len(engine.library)
    assert client.models.retrieve("lag-tiny:open_qa").lag["kind"] == "task"


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"model": "gpt-4"}, openai.NotFoundError),
        ({"temperature": -1}, openai.BadRequestError),
        ({"logit_bias": {"1": 2}}, openai.BadRequestError),
        ({"messages": [{"role": "user", "content": "long " * 2000}]}, openai.BadRequestError),
    ],
    ids=["model", "temperature", "logit_bias", "length"],
)
def test_mistakes_raise_the_clients_own_errors(client, messages, fields, error):
    with pytest.raises(error) as raised:
        client.chat.completions.create(**{"model": "lag-tiny", "messages": messages, **fields})
    assert raised.value.type == "invalid_request_error"
    if "messages" in fields:
        assert raised.value.code == "context_length_exceeded"
