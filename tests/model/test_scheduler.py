"""The batch is kept full, and nobody in it pays for anybody else."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, MambaConfig, MambaForCausalLM

from lag_engine.adapters.library import AdapterLibrary
from lag_engine.aio import iterate
from lag_engine.errors import BusyError
from lag_engine.model.engine import LAGEngine
from lag_engine.model.paged import PAGE_TOKENS
from lag_engine.model.seat import Seat
from lag_engine.routing import Pinned, Plan

MODES = ["lag", "base", "arrow", "spectr"]


@pytest.fixture
def steps(engine):
    """How many requests were in the batch at each forward pass so far."""
    sizes = []

    def count(*_):
        decoder = engine._runtime._scheduler._decoder
        sizes.append(len(decoder.seats) if decoder else 0)

    handle = engine.model.register_forward_pre_hook(count)
    yield sizes
    handle.remove()


def wait_until(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.0005)


async def until(condition):
    await asyncio.to_thread(wait_until, condition)


def test_requests_of_many_threads_share_steps_and_answer_as_alone(engine, steps):
    asks = [(f"Question {i}?"[: 4 + i % 9], MODES[i % 4], 5 + i % 11) for i in range(24)]

    def answer(ask):
        prompt, mode, n = ask
        sampling = {"temperature": 0.9, "seed": n} if n % 2 else {}
        return engine.generate(prompt, plan=mode, max_new_tokens=n, **sampling)

    alone = [answer(ask) for ask in asks]
    n_alone = len(steps)
    with ThreadPoolExecutor(24) as pool:
        together = list(pool.map(answer, asks))
    assert [a.token_ids for a in together] == [a.token_ids for a in alone]
    assert max(steps[n_alone:]) > 4
    assert len(steps) - n_alone < n_alone / 2


def test_a_request_joins_while_another_is_decoded(engine, steps):
    stream = engine.stream("Who?", max_new_tokens=250)
    next(stream)
    assert engine.generate("a", max_new_tokens=3).usage.completion_tokens == 3
    assert max(steps) == 2
    stream.close()


def test_closing_half_of_the_streams_frees_their_places_within_a_step(engine, steps):
    streams = [engine.stream("Who?", max_new_tokens=250) for _ in range(6)]
    for stream in streams:
        next(stream)
    scheduler = engine._runtime._scheduler
    wait_until(lambda: len(scheduler._decoder.seats) == 6)
    for stream in streams[:3]:
        stream.close()
    closed_at = len(steps)
    wait_until(lambda: len(steps) > closed_at + 2)
    assert set(steps[closed_at + 1 :]) == {3}
    for stream in streams[3:]:
        stream.close()
    wait_until(lambda: scheduler.is_idle)
    assert sum(scheduler._decoder._pages.values()) == 0


async def test_a_request_cancelled_while_it_waits_never_starts(text_model, byte_tokenizer):
    with LAGEngine(text_model, byte_tokenizer, max_batch=1) as engine:
        first = engine.stream("Who?", plan="base", max_new_tokens=250)
        next(first)
        scheduler = engine._runtime._scheduler

        async def ask():
            return [piece async for piece in iterate(lambda: engine.stream("a", plan="base"))]

        waiting = asyncio.create_task(ask())
        await until(lambda: scheduler._waiting)
        [seat] = scheduler._waiting
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await until(lambda: not scheduler._waiting)
        assert seat.plan is None
        first.close()


async def test_cancelling_half_of_the_async_readers_leaves_the_others(engine, steps):
    async def ask():
        pieces = [
            piece async for piece in iterate(lambda: engine.stream("Who?", max_new_tokens=80))
        ]
        return pieces[-1].generation.token_ids

    alone = await ask()
    tasks = [asyncio.create_task(ask()) for _ in range(8)]
    await until(lambda: max(steps) == 8)
    for task in tasks[::2]:
        task.cancel()
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(end, asyncio.CancelledError) for end in ends[::2])
    assert ends[1::2] == [alone] * 4


def test_a_full_batch_makes_the_rest_wait_their_turn(text_model, byte_tokenizer):
    with LAGEngine(text_model, byte_tokenizer, max_batch=2) as engine:
        sizes = []
        text_model.register_forward_pre_hook(
            lambda *_: sizes.append(len(engine._runtime._scheduler._decoder.seats))
        )
        answers = engine.generate_batch(["Who?"] * 5, plans="base", max_new_tokens=4)
    assert len({a.token_ids for a in answers}) == 1
    assert max(sizes) == 2


def test_too_many_waiting_requests_are_refused_and_the_others_answered(text_model, byte_tokenizer):
    with LAGEngine(text_model, byte_tokenizer, max_batch=1, max_waiting=2) as engine:
        running = engine.stream("Who?", plan="base", max_new_tokens=200)
        next(running)
        with ThreadPoolExecutor(2) as pool:
            waiting = [
                pool.submit(engine.generate, "a", plan="base", max_new_tokens=2) for _ in "ab"
            ]
            wait_until(lambda: len(engine._runtime._scheduler._waiting) == 2)
            with pytest.raises(BusyError, match="fewer than 2"):
                engine.generate("a", plan="base")
            running.close()
            assert all(w.result().usage.completion_tokens == 2 for w in waiting)


def test_an_error_in_one_rows_own_work_leaves_the_others_alone(engine, monkeypatch):
    take = Seat.take

    def failing(seat, token_id):
        if seat.row.request.max_new_tokens == 7 and len(seat.row.token_ids) == 3:
            monkeypatch.setattr(seat.row, "feed", lambda _: 1 / 0)
        take(seat, token_id)

    alone = engine.generate("Who?", max_new_tokens=9).token_ids
    monkeypatch.setattr(Seat, "take", failing)
    with ThreadPoolExecutor(3) as pool:
        good = [pool.submit(engine.generate, "Who?", max_new_tokens=9) for _ in "ab"]
        bad = pool.submit(engine.generate, "Who?", max_new_tokens=7)
        assert [g.result().token_ids for g in good] == [alone] * 2
        with pytest.raises(ZeroDivisionError):
            bad.result()


def test_an_error_in_the_model_reaches_the_request_that_causes_it_and_no_other(engine, steps):
    """The plan of one request breaks a forward pass; the others go on from where they were."""
    good_plan, bad_plan = engine.plan("lag", retrieve_k=3), engine.plan("spectr")
    alone = engine.generate("Who?", plan=good_plan, max_new_tokens=40, trace=True)
    surgery = engine._runtime._surgery
    broken = engine._runtime._worker.call(lambda _: surgery.resolve(bad_plan))

    def fail(*_):
        raise OSError("the disk is gone")

    broken.selections[0].active = fail
    with ThreadPoolExecutor(2) as pool:
        goods = [
            pool.submit(engine.generate, "Who?", plan=good_plan, max_new_tokens=40, trace=True)
            for _ in "ab"
        ]
        wait_until(lambda: max(steps) == 2)
        with pytest.raises(OSError, match="disk is gone"):
            engine.generate("a", plan=bad_plan)
        for good in goods:
            answer = good.result()
            assert answer.token_ids == alone.token_ids
            assert answer.trace.token_ids == alone.trace.token_ids
            assert answer.trace.share() == pytest.approx(alone.trace.share(), abs=1e-6)


def test_a_request_sees_the_library_as_it_was_when_its_decoding_began(
    engine, text_library, random_adapter
):
    stream = engine.stream("Who?", max_new_tokens=120, trace=True)
    next(stream)
    text_library.add(random_adapter(engine.model, "task", 77), name="late", kind="task")
    later = engine.generate("a", plan=Plan("custom", task=Pinned("late")), max_new_tokens=2)
    assert later.usage.completion_tokens == 2
    *_, last = stream
    assert "late" not in last.generation.trace.share()


def test_the_cache_grows_for_a_request_that_needs_more(text_model, byte_tokenizer, monkeypatch):
    monkeypatch.setattr("lag_engine.model.paged.CACHE_TOKENS", 2 * PAGE_TOKENS)
    prompt = [50, 60] * PAGE_TOKENS
    with LAGEngine(text_model, byte_tokenizer) as engine:
        assert engine.generate("a", plan="base", max_new_tokens=1).token_ids
        long = engine.generate(prompt, plan="base", max_new_tokens=PAGE_TOKENS)
    with LAGEngine(text_model, byte_tokenizer) as engine:
        assert engine.generate(prompt, plan="base", max_new_tokens=PAGE_TOKENS) == long


def test_layers_that_slide_and_short_pages_change_no_answer_and_no_trace(
    byte_tokenizer, tmp_path, random_adapter, monkeypatch
):
    monkeypatch.setattr("lag_engine.model.paged.CACHE_TOKENS", 4 * PAGE_TOKENS)
    torch.manual_seed(0)
    widths = {"hidden_size": 32, "intermediate_size": 64, "head_dim": 8, "sliding_window": 16}
    heads = {"num_hidden_layers": 6, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = Gemma3TextConfig(vocab_size=263, initializer_range=0.4, **widths, **heads)
    model = Gemma3ForCausalLM(config).eval()
    assert {"sliding_attention", "full_attention"} == set(config.layer_types)
    prompts = [[1, *range(40, 46 + 7 * i)] for i in range(5)]
    with AdapterLibrary.create(tmp_path / "library", base_model=model) as library:
        library.add(random_adapter(model, "task", 3), name="task", kind="task")
        with LAGEngine(model, byte_tokenizer, library) as engine:
            asked = {"max_new_tokens": 20, "trace": True}
            alone = [engine.generate(prompt, **asked) for prompt in prompts]
            together = engine.generate_batch(prompts, **asked)
    assert [a.token_ids for a in together] == [a.token_ids for a in alone]
    assert [a.trace.token_ids for a in together] == [a.trace.token_ids for a in alone]


def test_closing_the_engine_gives_the_model_its_own_attention_back(byte_tokenizer, make_text_model):
    model = make_text_model()
    model.set_attn_implementation("eager")
    with LAGEngine(model, byte_tokenizer) as engine:
        alone = engine.generate("Who?", plan="base", max_new_tokens=5)
        assert engine.generate_batch(["Who?", "a"], plans="base", max_new_tokens=5)[0] == alone
        assert model.config._attn_implementation == "paged|eager"
    assert model.config._attn_implementation == "eager"


def test_a_recurrent_model_is_decoded_one_request_after_another(byte_tokenizer):
    torch.manual_seed(0)
    model = MambaForCausalLM(
        MambaConfig(hidden_size=16, num_hidden_layers=1, vocab_size=263, state_size=4)
    ).eval()
    with LAGEngine(model, byte_tokenizer) as engine:
        prompts = ["Who?", "a", "hello"]
        alone = [engine.generate(p, plan="base", max_new_tokens=4).token_ids for p in prompts]
        together = engine.generate_batch(prompts, plans="base", max_new_tokens=4)
    assert [a.token_ids for a in together] == alone


def test_the_model_can_be_lent_while_requests_run(engine):
    stream = engine.stream("Who?", max_new_tokens=100)
    next(stream)

    def work(model):
        assert torch.is_grad_enabled()
        loss = model(torch.tensor([[1, 50, 51]])).logits.square().mean()
        loss.backward()
        norm = model.get_input_embeddings().weight.grad.norm()
        model.zero_grad()
        return float(norm)

    assert engine.lend(work) > 0
    stream.close()
    with pytest.raises(ZeroDivisionError):
        engine.lend(lambda _: 1 / 0)
