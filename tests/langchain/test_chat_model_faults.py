"""What users of local Hugging Face models in LangChain complain of, on the shipped model.

One test for each fault that the survey of the frameworks (ecosystem.md, a.4) found in
ChatHuggingFace over a pipeline; none is scripted.
"""

from __future__ import annotations

import asyncio
import time
from typing import Literal

import pytest
import torch
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from pydantic import BaseModel

from lag_engine import GenerationError, LagError, PromptTooLongError
from lag_integrations.langchain import LAGChatModel

QUESTION = "Where was Rosa Sinclair born?"


class Verdict(BaseModel):
    """Whether a claim holds."""

    verdict: Literal["SUPPORTS", "REFUTES"]
    certain: bool


@pytest.fixture(scope="module")
def llm():
    model = LAGChatModel(mode="base", max_tokens=12, trace="none")
    model.engine  # noqa: B018
    return model


async def drained(stream):
    return [chunk async for chunk in stream]


async def test_ainvoke_and_astream_are_there_and_agree_with_invoke(llm):
    whole = llm.invoke(QUESTION).content
    assert whole
    assert (await llm.ainvoke(QUESTION)).content == whole
    assert "".join(c.content for c in await drained(llm.astream(QUESTION))) == whole


def test_an_answer_may_follow_any_message(llm):
    for last in (AIMessage("In"), SystemMessage("Be short.")):
        assert isinstance(llm.invoke([HumanMessage(QUESTION), last]), AIMessage)


@pytest.mark.parametrize("method", ["json_schema", "json_mode"])
async def test_structured_output_is_valid_whatever_the_model_would_say(llm, method):
    structured = llm.with_structured_output(Verdict, method=method, max_tokens=60)
    value = structured.invoke("Rosa Sinclair is a nurse.")
    assert isinstance(value, Verdict)
    assert await structured.ainvoke("Rosa Sinclair is a nurse.") == value
    *_, last = structured.stream("Rosa Sinclair is a nurse.")
    assert last == value


def test_stop_strings_of_several_tokens_end_invoke_and_stream_alike(llm):
    whole = llm.invoke(QUESTION).content
    stop = whole[3:-2]
    assert len(llm.get_token_ids(stop)) > 1
    cut = llm.invoke(QUESTION, stop=[stop])
    assert cut.content == whole[:3]
    assert cut.response_metadata["finish_reason"] == "stop"
    assert "".join(chunk.content for chunk in llm.stream(QUESTION, stop=[stop])) == whole[:3]
    assert (
        LAGChatModel(mode="base", max_tokens=12, stop=[stop]).invoke(QUESTION).content == whole[:3]
    )


def test_max_tokens_and_other_settings_of_a_call_are_kept(llm):
    short = llm.invoke(QUESTION, max_tokens=1)
    assert short.usage_metadata["output_tokens"] == 1
    assert short.response_metadata["finish_reason"] == "length"
    drawn = {llm.invoke(QUESTION, temperature=5.0, seed=seed).content for seed in range(4)}
    assert len(drawn) > 1
    again = [llm.invoke(QUESTION, temperature=5.0, seed=1).content for _ in range(2)]
    assert again[0] == again[1]


def test_usage_finish_reason_and_model_name_are_told(llm):
    streamed = list(llm.stream(QUESTION))[-1]
    for answer in (llm.invoke(QUESTION), streamed):
        assert answer.usage_metadata["output_tokens"] > 0
        assert answer.response_metadata["finish_reason"] == "stop"
        assert answer.response_metadata["model_name"] == "lag-tiny"


def test_tokens_are_counted_exactly_and_the_begin_token_comes_once(llm):
    messages = [SystemMessage("Be short."), HumanMessage(QUESTION)]
    counted = llm.get_num_tokens_from_messages(messages)
    assert counted == llm.invoke(messages).usage_metadata["input_tokens"]
    generation = llm.engine.generate([{"role": "user", "content": QUESTION}], plan="base")
    assert generation.prompt_token_ids.count(llm.engine.tokenizer.bos_token_id) == 1


def test_the_prompt_is_not_echoed(llm):
    assert QUESTION not in llm.invoke(QUESTION).content
    assert QUESTION not in "".join(chunk.content for chunk in llm.stream(QUESTION))


def test_an_error_of_the_model_reaches_the_stream_at_once(llm, monkeypatch):
    def break_down(*args, **kwargs):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(type(llm.engine.model.model), "forward", break_down)
    started = time.perf_counter()
    with pytest.raises(RuntimeError, match="out of memory"):
        list(llm.stream(QUESTION))
    assert time.perf_counter() - started < 5
    monkeypatch.undo()
    assert llm.invoke(QUESTION).content


def test_a_context_that_is_too_small_is_an_error_and_nothing_is_cut(llm):
    with pytest.raises(PromptTooLongError, match="nothing is ever cut off"):
        llm.invoke("word " * 2000)


async def test_concurrent_calls_under_different_plans_answer_as_alone(llm):
    modes = ["base", "arrow", "spectr", "lag"] * 2
    alone = [llm.invoke(QUESTION, mode=mode).content for mode in modes]
    together = await asyncio.gather(*[llm.ainvoke(QUESTION, mode=mode) for mode in modes])
    assert [answer.content for answer in together] == alone
    batched = llm.batch([QUESTION] * 8, [{"configurable": {"lag_mode": m}} for m in modes])
    assert [answer.content for answer in batched] == alone


async def test_no_thread_is_left_without_gradients(llm):
    async for _ in llm.astream(QUESTION):
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()
    states = await asyncio.gather(*[asyncio.to_thread(torch.is_grad_enabled) for _ in range(8)])
    assert all(states)


def test_a_device_that_is_not_there_is_refused_in_words():
    with pytest.raises(LagError, match="device"):
        LAGChatModel(device="cuda:99").invoke("Hi")


def test_an_image_is_refused_in_words(llm):
    block = {"type": "image", "base64": "aGk=", "mime_type": "image/png"}
    with pytest.raises(GenerationError, match="reads text only"):
        llm.invoke([HumanMessage([block])])
