"""Structured prediction by guided decoding, with replies scripted."""

from __future__ import annotations

import pytest
from llama_index.core import PromptTemplate
from llama_index.core.llms import ChatMessage
from pydantic import BaseModel, field_validator

from lag_engine import GenerationError, Guide

PROMPT = PromptTemplate("An album about {x}")


class Album(BaseModel):
    """An album."""

    title: str
    songs: list[str] = []

    @field_validator("title")
    @classmethod
    def not_taken(cls, title):
        if title == "Taken":
            raise ValueError("taken")
        return title


@pytest.fixture
def llm(make_llm, scripted):
    return make_llm(scripted('{"title": "Blue", "songs": ["A Case", "River"]}'))


BLUE = Album(title="Blue", songs=["A Case", "River"])


async def test_structured_predict_is_guided_by_the_schema(llm):
    assert llm.structured_predict(Album, PROMPT, x="the sea") == BLUE
    assert await llm.astructured_predict(Album, PROMPT, x="the sea") == BLUE
    for prompt, options in llm.engine.calls:
        assert options["guide"] == Guide.json_schema(Album.model_json_schema())
        assert prompt == [{"role": "user", "content": "An album about the sea"}]


async def test_streams_bring_partial_objects_and_end_with_the_whole(llm):
    sync = list(llm.stream_structured_predict(Album, PROMPT, x="the sea"))
    stream = await llm.astream_structured_predict(Album, PROMPT, x="the sea")
    for objects in (sync, [partial async for partial in stream]):
        assert len(objects) > 2
        assert objects[-1] == BLUE


def test_llm_kwargs_reach_the_call(llm):
    kwargs = {"mode": "base", "max_tokens": 99, "tool_choice": "x"}
    llm.structured_predict(Album, PROMPT, llm_kwargs=kwargs, x="the sea")
    options = llm.engine.options
    assert (options["plan"].mode, options["max_new_tokens"]) == ("base", 99)
    assert "tool_choice" not in options


@pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecationWarning")  # core's
async def test_a_structured_llm_answers_in_every_way_it_has(llm):
    structured = llm.as_structured_llm(Album)
    ask = [ChatMessage(content="An album")]
    assert structured.chat(ask).raw == BLUE
    assert structured.complete("An album").raw == BLUE
    assert (await structured.achat(ask)).raw == BLUE
    assert list(structured.stream_chat(ask))[-1].raw == BLUE


async def test_an_answer_that_was_cut_says_so(make_llm, scripted):
    llm = make_llm(scripted({"text": '{"title": "Bl', "finish_reason": "length"}))
    with pytest.raises(GenerationError, match="cut by `max_tokens`"):
        llm.structured_predict(Album, PROMPT, x="the sea")
    with pytest.raises(GenerationError, match="cut by `max_tokens`"):
        list(llm.stream_structured_predict(Album, PROMPT, x="the sea"))
    stream = await llm.astream_structured_predict(Album, PROMPT, x="the sea")
    with pytest.raises(GenerationError, match="cut by `max_tokens`"):
        _ = [partial async for partial in stream]


def test_a_validator_that_no_schema_tells_is_an_error(make_llm, scripted):
    llm = make_llm(scripted('{"title": "Taken"}'))
    with pytest.raises(GenerationError, match="taken"):
        llm.structured_predict(Album, PROMPT, x="the sea")


def test_another_program_mode_goes_the_frameworks_way(make_llm, scripted):
    llm = make_llm(scripted('{"title": "Blue"}'), pydantic_program_mode="llm")
    assert llm.structured_predict(Album, PROMPT, x="the sea") == Album(title="Blue")
    assert "guide" not in llm.engine.options
