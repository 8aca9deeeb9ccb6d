from __future__ import annotations

import asyncio
import pickle

import pytest
from llama_index.core.llms import ChatMessage, LLMMetadata

from lag_engine import GenerationError, Guide, LagError, ModelError, Plan, PlanError, tiny
from lag_integrations.engines import loaded_engine
from lag_integrations.llama_index import LAGLLM

ASK = [ChatMessage(content="Where is it")]


def test_constructing_loads_nothing():
    assert LAGLLM(model="owner/not-there").engine_key.model == "owner/not-there"


def test_metadata_tells_the_shipped_models_context_without_its_weights():
    llm = LAGLLM(model="lag-tiny", max_tokens=33, dtype="float64")
    metadata = llm.metadata
    assert isinstance(metadata, LLMMetadata)
    assert (metadata.context_window, metadata.num_output) == (1024, 33)
    assert metadata.is_chat_model
    assert metadata.model_name == "lag-tiny"
    assert loaded_engine(llm.engine_key) is None


def test_metadata_from_files_is_what_the_engine_says(tiny_llm):
    unloaded = LAGLLM(model="lag-tiny", max_tokens=24, dtype="float64").metadata
    engine = tiny_llm.engine
    assert unloaded.context_window == engine.context_length
    assert unloaded.is_function_calling_model == engine.supports_tools
    assert tiny_llm.metadata == unloaded


def test_the_bound_of_the_library_is_the_engines():
    llm = LAGLLM(model="owner/not-there", factor_cache_bytes=1 << 20)
    assert llm.with_mode("base").engine_key.factor_cache_bytes == 1 << 20


def test_a_context_window_of_the_users_is_what_metadata_tells(make_llm, engine):
    assert make_llm(engine, context_window=100).metadata.context_window == 100


def test_a_model_that_is_nowhere_is_an_error_when_metadata_is_asked():
    with pytest.raises(ModelError):
        _ = LAGLLM(model="/not/there").metadata


def test_chat_answers_with_usage_finish_reason_and_routing(llm, json_able):
    response = llm.chat(ASK)
    assert response.message.content == "Paris is fine"
    assert response.message.role == "assistant"
    raw = response.raw
    assert raw["usage"] == {"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6}
    assert raw["finish_reason"] == "stop"
    assert raw["model"] == "scripted"
    assert raw["lag_routing"]["plan"] == Plan.from_mode("lag").key
    assert raw["lag_routing"]["share"] == {"task": {"qa": 0.5}}
    assert json_able(raw)


async def test_the_eight_methods_give_one_answer(llm):
    answers = [
        llm.chat(ASK).message.content,
        llm.complete("Where is it").text,
        (await llm.achat(ASK)).message.content,
        (await llm.acomplete("Where is it")).text,
        list(llm.stream_chat(ASK))[-1].message.content,
        list(llm.stream_complete("Where is it"))[-1].text,
        [r async for r in await llm.astream_chat(ASK)][-1].message.content,
        [r async for r in await llm.astream_complete("Where is it")][-1].text,
    ]
    assert answers == ["Paris is fine"] * 8


def test_streamed_text_is_cumulative_delta_is_new_and_only_the_last_has_raw(llm):
    for responses in (list(llm.stream_chat(ASK)), list(llm.stream_complete("Where"))):
        texts = [r.text if hasattr(r, "text") else r.message.content for r in responses]
        deltas = [r.delta for r in responses]
        assert texts == ["".join(deltas[: i + 1]) for i in range(len(deltas))]
        assert [r.raw is None for r in responses] == [True] * (len(responses) - 1) + [False]


def test_call_arguments_override_the_constructor(make_llm, engine):
    llm = make_llm(engine, max_tokens=5, temperature=0.5, stop=["a"], seed=1)
    llm.chat(ASK)
    assert (engine.options["max_new_tokens"], engine.options["stop"]) == (5, ["a"])
    llm.complete("Where", stop="b", max_tokens=7, temperature=0.0, seed=2, top_k=3)
    told = {key: engine.options[key] for key in ("max_new_tokens", "temperature", "seed", "top_k")}
    assert told == {"max_new_tokens": 7, "temperature": 0.0, "seed": 2, "top_k": 3}
    assert engine.options["stop"] == ["b"]


async def test_every_method_honours_what_a_call_says(llm, engine):
    said = {"mode": "prag", "adapters": ["d1"], "stop": ["x"], "max_tokens": 9}
    llm.chat(ASK, **said)
    llm.complete("Where", **said)
    list(llm.stream_chat(ASK, **said))
    list(llm.stream_complete("Where", **said))
    await llm.achat(ASK, **said)
    await llm.acomplete("Where", **said)
    _ = [r async for r in await llm.astream_chat(ASK, **said)]
    _ = [r async for r in await llm.astream_complete("Where", **said)]
    assert len(engine.calls) == 8
    for _, options in engine.calls:
        assert options["plan"] == Plan.from_mode("prag", adapters=["d1"])
        assert (options["stop"], options["max_new_tokens"]) == (["x"], 9)


def test_a_plan_may_be_given_but_not_beside_its_parts(llm, engine):
    plan = Plan.from_mode("arrow", top_k=2)
    llm.chat(ASK, plan=plan)
    assert engine.options["plan"] == plan
    with pytest.raises(PlanError, match="either `plan` or its parts"):
        llm.chat(ASK, plan=plan, mode="base")


def test_unknown_constructor_arguments_are_warned_about():
    with pytest.warns(UserWarning, match="no argument `modle`: did you mean"):
        LAGLLM(modle="x")


def test_unknown_call_arguments_are_refused(llm):
    with pytest.raises(GenerationError, match="Found tempature"):
        llm.chat(ASK, tempature=0.5)


def test_with_mode_and_with_adapters_share_the_engine_and_leave_the_original(llm, engine):
    other = llm.with_adapters({"knowledge": ["d1"]}, mode="prag+lag").with_mode("rag+prag+lag")
    assert (other.mode, other.adapters) == ("rag+prag+lag", {"knowledge": ["d1"]})
    assert other.engine is llm.engine is engine
    assert (llm.mode, llm.adapters) == ("lag", None)
    other.chat(ASK)
    assert engine.options["plan"].mode == "rag+prag+lag"


def test_with_changes_keeps_callbacks_and_prompt_functions(make_llm, engine):
    def framed(prompt):
        return f"<{prompt}>"

    llm = make_llm(engine, completion_to_prompt=framed, system_prompt="Be kind.")
    other = llm.with_mode("base")
    assert other.completion_to_prompt is framed
    assert other.system_prompt == "Be kind."
    assert other.callback_manager is llm.callback_manager


def test_to_dict_and_back_is_the_same_llm():
    llm = LAGLLM(mode="rag+lag", stop=["x"], routing={"retrieve_k": 5}, system_prompt="Be kind.")
    told = llm.to_dict()
    assert told["class_name"] == LAGLLM.class_name() == "LAGLLM"
    assert LAGLLM.from_dict(told).to_dict() == told
    assert LAGLLM.from_json(llm.to_json()).to_dict() == told


def test_pickle_carries_settings_and_no_weights(llm):
    copy = pickle.loads(pickle.dumps(llm.with_mode("base")))
    assert (copy.model, copy.mode) == (llm.model, "base")


def test_to_payload_holds_no_prompts_and_no_tensors(make_llm, engine, json_able):
    payload = make_llm(engine, system_prompt="A secret.").to_payload()
    assert json_able(payload)
    assert "secret" not in str(payload)


def test_the_tokenizer_counts_as_the_model_does(tiny_llm):
    ids = tiny_llm.tokenizer("Rosa Sinclair is a court nurse.")
    assert tiny_llm.engine.tokenizer.decode(ids).strip() == "Rosa Sinclair is a court nurse."


async def test_an_error_of_the_engine_reaches_every_caller(llm):
    for call in (llm.chat, llm.complete, llm.stream_chat, llm.stream_complete):
        with pytest.raises(PlanError):
            call("Where" if "complete" in call.__name__ else ASK, mode="prag")
    for call in (llm.achat, llm.acomplete):
        with pytest.raises(PlanError):
            await call("Where" if "complete" in call.__name__ else ASK, mode="prag")


async def test_an_error_in_the_middle_of_a_stream_reaches_the_consumer(make_llm, scripted):
    llm = make_llm(scripted(LagError("a", "b", "c")))
    with pytest.raises(LagError):
        list(llm.stream_chat(ASK))
    with pytest.raises(LagError):
        async with asyncio.timeout(5):
            _ = [r async for r in await llm.astream_chat(ASK)]


async def test_async_answers_leave_the_event_loop_free(make_llm, scripted):
    llm = make_llm(scripted(" ".join(["word"] * 10), seconds_per_piece=0.01))
    ticks = 0

    async def tick():
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0.005)

    ticking = asyncio.create_task(tick())
    await llm.achat(ASK)
    _ = [r async for r in await llm.astream_complete("Where")]
    ticking.cancel()
    assert ticks >= 10


async def test_cancelling_achat_ends_the_generation(make_llm, slow_engine):
    task = asyncio.create_task(make_llm(slow_engine).achat(ASK))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(slow_engine.ended.wait, 1.0)
    assert slow_engine.n_pieces < 100


async def test_leaving_an_async_stream_early_ends_the_generation(make_llm, slow_engine):
    stream = await make_llm(slow_engine).astream_chat(ASK)
    await anext(stream)
    await stream.aclose()
    assert await asyncio.to_thread(slow_engine.ended.wait, 1.0)
    assert slow_engine.n_pieces < 100


def test_closing_a_stream_ends_the_generation(make_llm, slow_engine):
    stream = make_llm(slow_engine).stream_complete("Where")
    next(stream)
    stream.close()
    assert slow_engine.ended.is_set()
    assert slow_engine.n_pieces == 1


async def test_log_probabilities_come_with_every_kind_of_answer(tiny_llm):
    whole = tiny_llm.chat(ASK, logprobs=2)
    assert len(whole.logprobs) == whole.raw["usage"]["completion_tokens"]
    for token in whole.logprobs:
        assert len(token) == 2  # greedy: the chosen one is the likeliest of the two
        assert token[0].logprob <= 0
        assert token[0].logprob >= token[1].logprob
        assert bytes(token[0].bytes).decode() == token[0].token
    streamed = [r async for r in await tiny_llm.astream_chat(ASK, logprobs=2)]
    assert [t for r in streamed for t in r.logprobs or ()] == whole.logprobs
    assert tiny_llm.chat(ASK).logprobs is None


def test_a_guide_of_a_call_holds_the_answer(tiny_llm):
    choices = ["SUPPORTS", "REFUTES"]
    assert tiny_llm.complete("Claim: it is so.", guide=Guide.choices(choices)).text in choices


async def test_concurrent_requests_with_mixed_plans_equal_those_one_after_another(tiny_llm):
    plans = [{"mode": "base"}, {"mode": "lag"}, {"mode": "arrow"}]
    plans += [{"mode": "prag", "adapters": [d.adapter]} for d in tiny.documents()[:5]]
    alone = [tiny_llm.chat(ASK, **plan).message.content for plan in plans]
    together = await asyncio.gather(*(tiny_llm.achat(ASK, **plan) for plan in plans))
    assert [response.message.content for response in together] == alone
