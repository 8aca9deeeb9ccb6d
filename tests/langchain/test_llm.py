"""LAGLLM: completions with the chat model's settings, and one batch of the engine for a batch."""

from __future__ import annotations

import asyncio
import json

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.load import dumps, load
from langchain_core.load.dump import dumpd
from langchain_core.prompts import PromptTemplate
from langchain_core.runnables import RunnableLambda

from lag_engine import Plan, PlanError
from lag_integrations.langchain import LAGLLM


@pytest.fixture
def llm(make_llm, engine):
    return make_llm(engine, kind=LAGLLM)


def plans(engine):
    return [options["plan"] for _, options in engine.calls]


async def drained(stream):
    return [item async for item in stream]


def test_it_continues_raw_text(llm, engine):
    assert llm.invoke("The city") == "Paris is fine"
    assert engine.calls[-1][0] == "The city"


def test_a_batch_is_one_batch_of_the_engine(llm, engine):
    assert llm.batch(["a", "b", "c"]) == ["Paris is fine"] * 3
    assert engine.batches == [["a", "b", "c"]]


async def test_an_async_batch_runs_together(make_llm, make_engine):
    engine = make_engine(" ".join(["word"] * 10), seconds_per_piece=0.005)
    llm = make_llm(engine, kind=LAGLLM)
    assert len(set(await llm.abatch(["a"] * 8))) == 1
    assert engine.most_running > 4


def test_generations_tell_their_usage_and_routing(llm):
    result = llm.generate(["one two", "three"])
    assert result.llm_output["token_usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": 6,
        "total_tokens": 9,
    }
    (info,) = {json.dumps(g[0].generation_info["lag_routing"]) for g in result.generations}
    assert json.loads(info)["mode"] == "lag"
    usage = result.generations[0][0].generation_info["usage_metadata"]
    assert usage == {"input_tokens": 2, "output_tokens": 3, "total_tokens": 5}


async def test_streams_tell_their_tokens_themselves(llm, record):
    events = record()
    assert list(llm.stream("a", {"callbacks": [events]})) == ["Paris", " is", " fine"]
    assert events.of("token") == ["Paris", " is", " fine"]
    (result,) = events.of("end")
    assert result.generations[0][0].generation_info["finish_reason"] == "stop"
    events = record()
    assert await drained(llm.astream("a", {"callbacks": [events]})) == events.of("token")


CONFIG = {"configurable": {"lag_mode": "prag", "lag_adapters": ["d1"]}}
WAYS = {
    "invoke": lambda m: m.invoke("a", CONFIG),
    "stream": lambda m: list(m.stream("a", CONFIG)),
    "batch": lambda m: m.batch(["a", "b"], CONFIG),
    "ainvoke": lambda m: asyncio.run(m.ainvoke("a", CONFIG)),
    "astream": lambda m: asyncio.run(drained(m.astream("a", CONFIG))),
    "abatch": lambda m: asyncio.run(m.abatch(["a", "b"], CONFIG)),
    "events": lambda m: asyncio.run(drained(m.astream_events("a", CONFIG, version="v2"))),
    "a pipe": lambda m: (PromptTemplate.from_template("{x}") | m).invoke({"x": "a"}, CONFIG),
    "generate, inside a runnable": lambda m: RunnableLambda(
        lambda _: m.generate(["a"]).generations[0][0].text
    ).invoke("", CONFIG),
    "bind": lambda m: m.bind(max_tokens=3).invoke("a", CONFIG),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_config_arrives_by(llm, engine, way):
    WAYS[way](llm)
    assert set(plans(engine)) == {Plan.from_mode("prag", adapters=["d1"])}


def test_inputs_of_a_batch_may_differ_in_their_config(llm, engine):
    modes = ["base", "lag"]
    llm.batch(["a", "b"], [{"configurable": {"lag_mode": mode}} for mode in modes])
    assert sorted(plan.mode for plan in plans(engine)) == modes


@pytest.mark.parametrize("is_async", [False, True])
async def test_an_error_in_one_of_a_batch_reaches_only_that_one(llm, is_async):
    configs = [{"configurable": {"lag_mode": mode}} for mode in ("lag", "prag")]
    if is_async:
        answers = await llm.abatch(["a", "b"], configs, return_exceptions=True)
    else:
        answers = llm.batch(["a", "b"], configs, return_exceptions=True)
    assert answers[0] == "Paris is fine"
    assert isinstance(answers[1], PlanError)


def test_a_call_argument_is_part_of_the_cache_key(make_llm, engine):
    """LangChain's own key of completions holds no call arguments at all."""
    llm = make_llm(engine, kind=LAGLLM, cache=InMemoryCache())
    variants = [
        lambda: llm.invoke("a"),
        lambda: llm.invoke("a", mode="base"),
        lambda: llm.invoke("a", mode="prag", adapters=["d1"]),
        lambda: llm.invoke("a", mode="prag", adapters=["d2"]),
        lambda: llm.invoke("a", {"configurable": {"lag_mode": "arrow"}}),
        lambda: llm.invoke("a", stop=["x"]),
        lambda: llm.bind(plan=Plan.from_mode("lag", retrieve_k=3)).invoke("a"),
    ]
    for n_before, ask in enumerate(variants):
        assert len(engine.calls) == n_before
        assert ask() == ask() == "Paris is fine"
    assert len(engine.calls) == len(variants)
    engine.library.fingerprint = "second"
    llm.invoke("a")
    assert len(engine.calls) == len(variants) + 1


async def test_one_call_leaves_no_trace_in_the_next(llm, engine):
    llm.invoke("a", mode="base")
    await llm.ainvoke("a")
    assert [plan.mode for plan in plans(engine)] == ["base", "lag"]


@pytest.mark.parametrize("how", ["ainvoke", "abatch", "astream"])
async def test_cancelling_frees_the_engine(make_llm, make_engine, how):
    slow = make_engine(" ".join(["word"] * 200), seconds_per_piece=0.01)
    llm = make_llm(slow, kind=LAGLLM)
    work = {
        "ainvoke": lambda: llm.ainvoke("a"),
        "abatch": lambda: llm.abatch(["a", "b"]),
        "astream": lambda: drained(llm.astream("a")),
    }
    task = asyncio.create_task(work[how]())
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(slow.ended.wait, 1.0)
    assert slow.n_pieces < 100


async def test_an_error_of_one_prompt_ends_the_others(make_llm, make_engine):
    slow = make_engine(" ".join(["word"] * 200), seconds_per_piece=0.01)
    slow.fails_at = 3
    with pytest.raises(RuntimeError, match="the device is lost"):
        await make_llm(slow, kind=LAGLLM).agenerate(["a", "b"])


def test_settings_are_the_chat_models(llm, engine):
    llm.with_mode("base", max_tokens=3).invoke("a")
    assert engine.calls[-1][1]["max_new_tokens"] == 3
    assert plans(engine)[-1] == Plan.from_mode("base")
    assert llm.get_num_tokens("one two") == 2
    with pytest.warns(UserWarning, match="LAGLLM has no argument `modle`"):
        LAGLLM(modle="x")


@pytest.mark.filterwarnings("ignore::langchain_core._api.beta_decorator.LangChainBetaWarning")
def test_it_is_serialised_and_loaded_without_its_engine(llm):
    assert "engine" not in json.loads(dumps(llm))["kwargs"]
    again = load(
        dumpd(llm), allowed_objects=[LAGLLM], valid_namespaces=[LAGLLM.get_lc_namespace()[0]]
    )
    assert again.asdict() == llm.asdict()


def test_traces_name_the_model(llm):
    params = llm._get_ls_params(model="other")
    assert (params["ls_provider"], params["ls_model_name"]) == ("lag", "other")
    assert params["ls_model_type"] == "llm"
