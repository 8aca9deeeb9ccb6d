"""POST /v1/completions: raw text and token ids, one or several."""

from __future__ import annotations

import pytest

PATH = "/v1/completions"


@pytest.fixture
def complete(client):
    def ask(**fields):
        return client.post(PATH, json={"model": "pico", "prompt": "Who?", **fields}).json()

    return ask


def test_raw_text_is_continued_by_sixteen_tokens_as_openai_does(served, complete):
    reply = complete()
    whole = served.generate("Who?", plan="base", max_new_tokens=16)
    assert reply["object"] == "text_completion"
    assert reply["choices"][0]["text"] == whole.text
    assert reply["usage"]["completion_tokens"] == len(whole.token_ids)


def test_each_prompt_of_a_list_gets_its_answer_in_order(served, complete):
    prompts = ["Who?", "Where is it?", "Rosa"]
    reply = complete(prompt=prompts, max_tokens=4)
    alone = [complete(prompt=prompt, max_tokens=4) for prompt in prompts]
    assert [c["text"] for c in reply["choices"]] == [a["choices"][0]["text"] for a in alone]
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert reply["usage"][name] == sum(a["usage"][name] for a in alone)


def test_token_ids_are_read_as_they_are(served, complete):
    ids = served.tokenizer("Who?")["input_ids"]
    text = complete()["choices"][0]["text"]
    assert complete(prompt=ids)["choices"][0]["text"] == text
    assert complete(prompt=[ids, ids])["choices"][1]["text"] == text


def test_several_prompts_stream_side_by_side(complete, stream):
    prompts = ["Who?", "Where is it?"]
    whole = complete(prompt=prompts, max_tokens=6)
    options = {"include_usage": True}
    *chunks, usage, _ = stream(PATH, prompt=prompts, max_tokens=6, stream_options=options)
    for i, choice in enumerate(whole["choices"]):
        mine = [c["choices"][0] for c in chunks if c["choices"][0]["index"] == i]
        assert "".join(c["text"] for c in mine) == choice["text"]
        assert mine[-1]["finish_reason"] == choice["finish_reason"]
        assert mine[-1]["lag_routing"] == choice["lag_routing"]
    assert usage["usage"] == whole["usage"]


@pytest.mark.parametrize("fields", [{"echo": True}, {"suffix": "x"}, {"best_of": 2}], ids=str)
def test_what_is_not_supported_is_refused(complete, fields):
    (name,) = fields
    assert f"without `{name}`" in complete(**fields)["error"]["message"]


@pytest.mark.parametrize("prompt", [[], [[]], [99999]], ids=str)
def test_a_prompt_without_a_token_of_the_model_is_refused(complete, prompt):
    error = complete(prompt=prompt)["error"]
    assert error["type"] == "invalid_request_error"
