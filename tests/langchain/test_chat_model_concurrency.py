"""Many requests at once: they run side by side, end when nobody waits, and fail alone."""

from __future__ import annotations

import asyncio
import threading

import pytest
from langchain_core.rate_limiters import InMemoryRateLimiter

from lag_engine import PlanError

LONG = " ".join(["word"] * 200)


@pytest.fixture
def engine(make_engine):
    return make_engine(" ".join(["word"] * 10), seconds_per_piece=0.005)


def test_batch_hands_the_engine_all_requests_at_once(llm, engine):
    llm.batch(["Hi"] * 8)
    assert engine.most_running > 4


async def test_concurrent_calls_reach_the_engine_together(llm, engine):
    await asyncio.gather(*[llm.ainvoke("Hi") for _ in range(32)])
    assert engine.most_running > 16


@pytest.mark.parametrize("is_async", [False, True])
async def test_max_concurrency_is_kept(llm, engine, is_async):
    config = {"max_concurrency": 2}
    if is_async:
        await llm.abatch(["Hi"] * 6, config)
    else:
        llm.batch(["Hi"] * 6, config)
    assert len(engine.calls) == 6
    assert engine.most_running <= 2


@pytest.mark.parametrize("is_async", [False, True])
async def test_an_error_in_one_of_a_batch_reaches_only_that_one(llm, is_async):
    configs = [{"configurable": {"lag_mode": mode}} for mode in ("lag", "prag", "base")]
    if is_async:
        answers = await llm.abatch(["Hi"] * 3, configs, return_exceptions=True)
    else:
        answers = llm.batch(["Hi"] * 3, configs, return_exceptions=True)
    assert isinstance(answers[1], PlanError)
    assert answers[0].content == answers[2].content != ""


async def test_a_cancelled_task_frees_the_engine(make_llm, make_engine):
    slow = make_engine(LONG, seconds_per_piece=0.01)
    task = asyncio.create_task(make_llm(slow).ainvoke("Hi"))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(slow.ended.wait, 1.0)
    assert slow.n_pieces < 100


async def test_a_timeout_frees_the_engine(make_llm, make_engine):
    slow = make_engine(LONG, seconds_per_piece=0.01)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(make_llm(slow).ainvoke("Hi"), 0.05)
    assert await asyncio.to_thread(slow.ended.wait, 1.0)
    assert slow.n_pieces < 100


async def drained(stream, seen):
    async for chunk in stream:
        seen.append(chunk)


async def test_an_error_in_the_middle_of_an_answer_reaches_the_caller(make_llm, make_engine):
    llm = make_llm(make_engine(LONG, fails_at=3))
    seen = []
    with pytest.raises(RuntimeError, match="the device is lost"):
        llm.invoke("Hi")
    with pytest.raises(RuntimeError, match="the device is lost"):
        await llm.ainvoke("Hi")
    with pytest.raises(RuntimeError, match="the device is lost"):
        list(llm.stream("Hi"))
    with pytest.raises(RuntimeError, match="the device is lost"):
        await drained(llm.astream("Hi"), seen)
    assert "".join(chunk.content for chunk in seen) == "word word word"


async def test_async_generation_stays_on_one_thread(llm, engine):
    threads = set()
    pieces = engine._pieces

    def watched():
        threads.add(threading.get_ident())
        return pieces()

    engine._pieces = watched
    await llm.ainvoke("Hi")
    assert len(threads) == 1
    assert threading.get_ident() not in threads


def test_the_rate_limiter_is_asked_before_each_call(make_llm, engine):
    limiter = InMemoryRateLimiter(requests_per_second=1000, max_bucket_size=1)
    asked = []
    acquire = limiter.acquire
    limiter.acquire = lambda **options: asked.append(1) or acquire(**options)
    llm = make_llm(engine, rate_limiter=limiter)
    llm.invoke("Hi")
    list(llm.stream("Hi"))
    assert len(asked) == 2
