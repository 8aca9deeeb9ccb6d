from __future__ import annotations

import asyncio
import json

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.load import dumps
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import RunnableLambda
from pydantic import ValidationError

from lag_engine import GenerationError, Plan, PlanError
from lag_integrations.langchain import LAGChatModel


def last_options(engine):
    return engine.calls[-1][1]


def test_constructing_loads_nothing():
    assert LAGChatModel(model="owner/not-there").engine_key.model == "owner/not-there"


def test_invoke_answers_with_usage_finish_reason_and_routing(llm):
    answer = llm.invoke("Where is it")
    assert answer.content == "Paris is fine"
    assert answer.usage_metadata == {"input_tokens": 3, "output_tokens": 3, "total_tokens": 6}
    metadata = answer.response_metadata
    assert metadata["finish_reason"] == "stop"
    assert metadata["model_name"] == "scripted"
    assert metadata["lag_routing"]["mode"] == "lag"
    assert metadata["lag_routing"]["plan"] == Plan.from_mode("lag").key
    assert metadata["lag_routing"]["share"] == {"task": {"qa": 0.5}}
    json.dumps(metadata)


def test_stream_joins_to_the_answer_and_only_its_last_chunk_carries_metadata(llm):
    chunks = list(llm.stream("Where"))
    assert "".join(chunk.content for chunk in chunks) == "Paris is fine"
    carriers = [c for c in chunks if c.usage_metadata or c.response_metadata]
    assert carriers == [chunks[-1]]
    assert chunks[-1].chunk_position == "last"
    merged = chunks[0]
    for chunk in chunks[1:]:
        merged = merged + chunk
    whole = llm.invoke("Where")
    assert merged.response_metadata == whole.response_metadata
    assert merged.usage_metadata == whole.usage_metadata


async def test_async_calls_give_the_same_as_sync_calls(llm):
    whole = llm.invoke("Where")
    answer = await llm.ainvoke("Where")
    assert answer.content == whole.content
    assert answer.response_metadata == whole.response_metadata
    chunks = [chunk async for chunk in llm.astream("Where")]
    assert "".join(chunk.content for chunk in chunks) == whole.content
    assert chunks[-1].usage_metadata == whole.usage_metadata


async def test_async_generation_leaves_the_event_loop_free(make_llm, slow_engine):
    llm = make_llm(slow_engine)
    slow_engine.reply = " ".join(["word"] * 10)
    ticks = 0

    async def tick():
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0.005)

    ticking = asyncio.create_task(tick())
    await llm.ainvoke("Where")
    ticking.cancel()
    assert ticks >= 5


async def test_cancelling_ainvoke_ends_the_generation(make_llm, slow_engine):
    task = asyncio.create_task(make_llm(slow_engine).ainvoke("Where"))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(slow_engine.ended.wait, 1.0)
    assert slow_engine.n_pieces < 100


async def test_leaving_an_async_stream_early_ends_the_generation(make_llm, slow_engine):
    stream = make_llm(slow_engine).astream("Where")
    await anext(stream)
    await stream.aclose()
    assert await asyncio.to_thread(slow_engine.ended.wait, 1.0)
    assert slow_engine.n_pieces < 100


def test_closing_a_stream_ends_the_generation(make_llm, slow_engine):
    stream = make_llm(slow_engine).stream("Where")
    next(stream)
    stream.close()
    assert slow_engine.ended.is_set()
    assert slow_engine.n_pieces == 1


async def test_an_engine_error_reaches_the_async_caller(make_llm, engine):
    llm = make_llm(engine)
    with pytest.raises(PlanError):
        await llm.ainvoke("Where", mode="prag")
    with pytest.raises(PlanError):
        async for _ in llm.astream("Where", mode="prag"):
            pass


def test_batch_answers_each_input_in_order(llm, engine):
    answers = llm.batch(["one", "two words", "three words here"])
    assert [a.usage_metadata["input_tokens"] for a in answers] == [1, 2, 3]
    assert len(engine.calls) == 3


def test_call_arguments_override_the_constructor(make_llm, engine):
    llm = make_llm(engine, max_tokens=5, temperature=0.5, stop=["a"], seed=1)
    llm.invoke("Where")
    assert last_options(engine)["max_new_tokens"] == 5
    assert last_options(engine)["stop"] == ["a"]
    llm.invoke("Where", stop=["b"], max_tokens=7, temperature=0.0, seed=2, top_k=3)
    options = last_options(engine)
    assert (options["max_new_tokens"], options["temperature"], options["seed"]) == (7, 0.0, 2)
    assert (options["stop"], options["top_k"]) == (["b"], 3)


def test_mode_adapters_and_routing_may_change_per_call(llm, engine):
    llm.invoke("Where", mode="prag", adapters=["d1"])
    assert last_options(engine)["plan"] == Plan.from_mode("prag", adapters=["d1"])
    llm.invoke("Where", routing={"retrieve_k": 5})
    assert last_options(engine)["plan"] == Plan.from_mode("lag", retrieve_k=5)
    plan = Plan.from_mode("arrow", top_k=2)
    llm.invoke("Where", plan=plan)
    assert last_options(engine)["plan"] == plan


def test_a_plan_beside_its_parts_is_refused(llm):
    with pytest.raises(PlanError, match="either `plan` or its parts"):
        llm.invoke("Where", plan=Plan.from_mode("lag"), mode="base")


def test_the_models_own_adapters_do_not_disturb_a_mode_that_pins_none(make_llm, engine):
    llm = make_llm(engine, mode="prag", adapters=["d1"])
    llm.invoke("Where", mode="lag")
    assert last_options(engine)["plan"] == Plan.from_mode("lag")
    llm.invoke("Where", mode="prag+lag")
    assert last_options(engine)["plan"] == Plan.from_mode("prag+lag", adapters=["d1"])


def test_an_unknown_call_argument_is_refused_by_name(llm):
    with pytest.raises(GenerationError, match="Found temprature"):
        llm.invoke("Where", temprature=1)


@pytest.mark.parametrize("call", ["invoke", "ainvoke", "stream", "astream", "inside a runnable"])
async def test_config_sets_mode_and_adapters(llm, engine, call):
    config = {"configurable": {"lag_mode": "prag", "lag_adapters": ["d1"]}}
    if call == "invoke":
        llm.invoke("Where", config)
    elif call == "ainvoke":
        await llm.ainvoke("Where", config)
    elif call == "stream":
        list(llm.stream("Where", config))
    elif call == "astream":
        [chunk async for chunk in llm.astream("Where", config)]
    else:
        RunnableLambda(lambda text: llm.invoke(text)).invoke("Where", config)
    assert last_options(engine)["plan"] == Plan.from_mode("prag", adapters=["d1"])


def test_a_call_argument_beats_the_config(llm, engine):
    llm.invoke("Where", {"configurable": {"lag_mode": "arrow"}}, mode="base")
    assert last_options(engine)["plan"].mode == "base"


def test_with_mode_and_with_adapters_share_the_engine(llm, engine):
    pinned = llm.with_adapters(["d1"], mode="prag", max_tokens=9)
    pinned.invoke("Where")
    assert last_options(engine)["plan"] == Plan.from_mode("prag", adapters=["d1"])
    assert last_options(engine)["max_new_tokens"] == 9
    llm.with_mode("base").invoke("Where")
    assert last_options(engine)["plan"].mode == "base"
    assert (llm.mode, llm.adapters) == ("lag", None)
    assert pinned.engine is llm.engine


def test_a_cache_never_mixes_plans(make_llm, engine):
    llm = make_llm(engine, cache=InMemoryCache())
    variants = [
        lambda m: m.invoke("Where"),
        lambda m: m.invoke("Where", mode="base"),
        lambda m: m.invoke("Where", mode="prag", adapters=["d1"]),
        lambda m: m.invoke("Where", mode="prag", adapters=["d2"]),
        lambda m: m.invoke("Where", {"configurable": {"lag_mode": "arrow"}}),
        lambda m: m.invoke("Where", plan=Plan.from_mode("lag", retrieve_k=3)),
        lambda m: m.invoke("Where", stop=["x"]),
        lambda m: m.with_mode("spectr").invoke("Where"),
        lambda m: m.model_copy(update={"mode": "rag"}).invoke("Where"),
    ]
    for n_before, ask in enumerate(variants):
        assert len(engine.calls) == n_before
        ask(llm)
        ask(llm)
    assert len(engine.calls) == len(variants)


def test_a_cache_forgets_when_a_field_or_the_library_changes(make_llm, engine):
    llm = make_llm(engine, cache=InMemoryCache())
    llm.invoke("Where")
    llm.mode = "base"
    llm.invoke("Where")
    assert len(engine.calls) == 2
    engine.library.fingerprint = "second"
    llm.invoke("Where")
    assert len(engine.calls) == 3


def test_serialized_form_holds_the_arguments_and_no_engine(llm):
    llm.invoke("Where")
    kwargs = json.loads(dumps(llm))["kwargs"]
    assert kwargs["model"] == "scripted"
    assert "engine" not in kwargs


def test_unknown_constructor_arguments_are_warned_about():
    with pytest.warns(UserWarning, match="no argument `modle`: did you mean .*model"):
        LAGChatModel(modle="x")


def test_standard_arguments_of_hosted_models_are_accepted():
    LAGChatModel(model="x", api_key="k", timeout=3, max_retries=2)


def test_langsmith_parameters_name_the_model_of_the_call(llm):
    params = llm._get_ls_params(model="other", stop=["x"])
    assert (params["ls_provider"], params["ls_model_name"]) == ("lag", "other")
    assert params["ls_stop"] == ["x"]


def test_counted_tokens_equal_the_tokens_used(llm):
    messages = [HumanMessage("one two"), AIMessage("three"), HumanMessage("four")]
    counted = llm.get_num_tokens_from_messages(messages)
    assert counted == llm.invoke(messages).usage_metadata["input_tokens"]


def test_trace_detail_decides_what_routing_the_answer_tells(llm, engine):
    routing = llm.invoke("Where", trace="none").response_metadata["lag_routing"]
    assert set(routing) == {"mode", "plan"}
    assert last_options(engine)["trace"] is False
    routing = llm.invoke("Where", trace="full").response_metadata["lag_routing"]
    assert routing["trace"] == {"tokens": ["a"], "records": []}


def test_a_name_cannot_be_registered_for_two_engines(llm, engine):
    from lag_engine import ModelError

    LAGChatModel.from_engine(engine, name="scripted")
    with pytest.raises(ModelError, match="Another one is registered"):
        LAGChatModel.from_engine(type(engine)(), name="scripted")


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"top_k": 0},
        {"max_tokens": 0},
        {"repetition_penalty": 0.0},
        {"seed": -1},
    ],
)
def test_a_setting_out_of_range_is_told_when_the_model_is_made(settings):
    (name,) = settings
    with pytest.raises(ValidationError, match=name):
        LAGChatModel(**settings)


def test_an_unknown_mode_is_told_when_the_model_is_made():
    with pytest.raises(PlanError, match="rag\\+prag\\+lag"):
        LAGChatModel(mode="rag+lga")
