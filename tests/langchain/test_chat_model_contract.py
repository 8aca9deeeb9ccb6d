"""What LangChain expects of a chat model, and what it does where nothing is done about it.

One test for each row of the survey's table of `BaseChatModel` (ecosystem.md, a.1) that no other
file tests in full.
"""

from __future__ import annotations

import json

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import get_usage_metadata_callback
from langchain_core.load import dumps
from langchain_core.messages import AIMessage, HumanMessage, trim_messages

from lag_engine import ToolCall
from lag_integrations.engines import loaded_engine, release_engine
from lag_integrations.langchain import LAGChatModel

pytestmark = pytest.mark.filterwarnings(
    "ignore::langchain_core._api.beta_decorator.LangChainBetaWarning"
)


def merged(chunks):
    whole = None
    for chunk in chunks:
        whole = chunk if whole is None else whole + chunk
    return whole


@pytest.mark.parametrize("how", ["stream", "astream", "streaming=True", "events v3"])
async def test_each_token_is_told_once(make_llm, engine, how, record):
    events = record()
    config = {"callbacks": [events]}
    llm = make_llm(engine, **({"streaming": True} if how == "streaming=True" else {}))
    if how == "stream":
        list(llm.stream("Hi", config))
    elif how == "astream":
        [chunk async for chunk in llm.astream("Hi", config)]
    elif how == "events v3":
        assert "".join(llm.stream_events("Hi", config, version="v3").text) == "Paris is fine"
        return
    else:
        llm.invoke("Hi", config)
    assert events.of("token") == ["Paris", " is", " fine"]
    assert len(events.of("end")) == 1


def test_two_models_never_share_a_cache_key():
    keys = [
        LAGChatModel(model="one")._get_llm_string(),
        LAGChatModel(model="two")._get_llm_string(),
        LAGChatModel(model="one", revision="r")._get_llm_string(),
        LAGChatModel(model="one", quantization="4bit")._get_llm_string(),
        LAGChatModel(model="one", dtype="float16")._get_llm_string(),
        LAGChatModel(model="one", device="cpu")._get_llm_string(),
    ]
    assert len(set(keys)) == len(keys)


def test_traces_name_provider_and_model():
    params = LAGChatModel(max_tokens=9, temperature=0.5, stop=["x"])._get_ls_params()
    assert params == {
        "ls_provider": "lag",
        "ls_model_name": "lag-tiny",
        "ls_model_type": "chat",
        "ls_temperature": 0.5,
        "ls_max_tokens": 9,
        "ls_stop": ["x"],
    }


def test_the_profile_is_told_from_config_and_template_without_loading(llm, tmp_path):
    assert llm.profile["max_input_tokens"] == 1000
    assert llm.profile["tool_calling"] is True
    (tmp_path / "config.json").write_text(json.dumps({"max_position_embeddings": 77}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    unloaded = LAGChatModel(model=str(tmp_path))
    assert unloaded.profile["max_input_tokens"] == 77
    assert unloaded.profile["tool_calling"] is False
    assert loaded_engine(unloaded.engine_key) is None
    assert LAGChatModel(model="owner/not-there").profile is None


def test_a_model_on_another_model_has_its_own_profile(llm):
    assert llm.with_changes(model="owner/not-there").profile is None


def test_versions_are_told_to_traces(llm):
    assert {"langchain-core", "lag-integrations"} <= set(llm.metadata["lc_versions"])


def test_tokens_are_counted_by_the_model_and_never_zero(llm):
    messages = [HumanMessage("one two three"), AIMessage("four"), HumanMessage("five")]
    assert llm.get_num_tokens_from_messages(messages) == 5
    kept = trim_messages(messages, max_tokens=2, token_counter=llm, strategy="last")
    assert [message.content for message in kept] == ["four", "five"]


def test_streams_never_ask_the_cache(make_llm, engine):
    llm = make_llm(engine, cache=InMemoryCache())
    llm.invoke("Hi")
    assert merged(llm.stream("Hi")).content == "Paris is fine"
    assert len(engine.calls) == 2


def test_merging_a_stream_doubles_no_number_and_no_name(make_llm, make_engine):
    engine = make_engine("Paris is fine", reasoning="Hm", tool_calls=[ToolCall("look_up", {})])
    llm = make_llm(engine, trace="full", logprobs=True, top_logprobs=2)
    whole, streamed = llm.invoke("Hi"), merged(llm.stream("Hi"))
    assert streamed.response_metadata == whole.response_metadata
    assert streamed.usage_metadata == whole.usage_metadata
    assert streamed.additional_kwargs == whole.additional_kwargs
    assert json.loads(json.dumps(whole.response_metadata)) == whole.response_metadata


@pytest.mark.parametrize("output_version", ["v0", "v1"])
def test_a_streams_text_merges_to_one_block(make_llm, engine, output_version):
    llm = make_llm(engine, output_version=output_version)
    whole = merged(llm.stream("Hi"))
    assert [block["type"] for block in whole.content_blocks] == ["text"]
    assert whole.text == "Paris is fine"


def test_reasoning_stands_apart_from_the_answer(make_llm, make_engine):
    llm = make_llm(make_engine("Paris", reasoning="The capital"))
    for answer in (llm.invoke("Hi"), merged(llm.stream("Hi"))):
        assert answer.content == "Paris"
        assert answer.additional_kwargs["reasoning_content"] == "The capital"
        assert answer.content_blocks[0] == {"type": "reasoning", "reasoning": "The capital"}


def test_log_probabilities_are_told_if_asked_for(llm, engine):
    assert "logprobs" not in llm.invoke("Hi").response_metadata
    for ask in (
        lambda: llm.invoke("Hi", logprobs=True),
        lambda: llm.bind(logprobs=True).invoke("Hi"),
    ):
        (first, *_) = ask().response_metadata["logprobs"]["content"]
        assert first == {"token": "t0", "bytes": [116, 48], "logprob": -0.5, "top_logprobs": []}
    (first, *_) = llm.invoke("Hi", top_logprobs=2).response_metadata["logprobs"]["content"]
    assert [other["logprob"] for other in first["top_logprobs"]] == [-1.0, -2.0]
    assert engine.calls[-1][1]["logprobs"] == 2


def test_usage_callbacks_count_this_model(llm):
    with get_usage_metadata_callback() as counted:
        llm.invoke("one two")
        list(llm.stream("one two"))
    usage = counted.usage_metadata["scripted"]
    assert (usage["input_tokens"], usage["output_tokens"]) == (4, 6)


def test_the_provider_is_our_own(llm):
    assert llm.invoke("Hi").response_metadata["model_provider"] == "lag"


def test_a_stream_that_is_left_early_is_reported_and_frees_the_engine(llm, engine, record):
    events = record()
    stream = llm.stream("Hi", {"callbacks": [events]})
    next(stream)
    stream.close()
    assert isinstance(events.of("error")[0], GeneratorExit)
    assert engine.ended.is_set()


def test_nothing_but_plain_values_is_serialised(llm):
    written = json.loads(dumps(llm))
    assert written["type"] == "constructor"
    assert set(written["kwargs"]) <= set(LAGChatModel.model_fields)


def test_misspelt_arguments_do_not_vanish():
    with pytest.warns(UserWarning, match="no argument `temprature`: did you mean temperature"):
        LAGChatModel(temprature=1.0)


def test_a_call_may_name_another_model(make_llm, engine, make_engine):
    llm = make_llm(engine)
    other = make_engine("from the other")
    named = LAGChatModel.from_engine(other, name="other")
    try:
        answer = llm.invoke("Hi", model="other")
        assert answer.content == "from the other"
        assert answer.response_metadata["model_name"] == "other"
        assert merged(llm.stream("Hi", model="other")).response_metadata["model_name"] == "other"
    finally:
        release_engine(named.engine_key)
