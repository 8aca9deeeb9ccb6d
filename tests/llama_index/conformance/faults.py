"""Events and callbacks; errors, concurrency, cancelling."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from llama_index.core.callbacks import (
    CallbackManager,
    CBEventType,
    LlamaDebugHandler,
)
from llama_index.core.llms import LLM

from tests.llama_index.conformance.suite import (
    Base,
    Ear,
    drain,
    error_of,
    in_every_way,
    text_of,
    user,
)


class Events(Base):
    """Instrumentation and callbacks."""

    @pytest.mark.parametrize("kind", ["Chat", "Completion"])
    async def test_events_come_in_order_once_for_each_call(
        self, llm: LLM, ear: Ear, kind: str
    ) -> None:
        question: Any = user(self.question) if kind == "Chat" else self.question
        method = "chat" if kind == "Chat" else "complete"
        stream, astream = f"stream_{method}", f"astream_{method}"
        calls: list[Callable[[], Any]] = [
            lambda: getattr(llm, method)(question),
            lambda: list(getattr(llm, stream)(question)),
        ]
        for call in calls:
            ear.heard.clear()
            call()
            self._check(ear, kind)
        ear.heard.clear()
        await getattr(llm, f"a{method}")(question)
        self._check(ear, kind)
        ear.heard.clear()
        await drain(await getattr(llm, astream)(question))
        self._check(ear, kind)

    def _check(self, ear: Ear, kind: str) -> None:
        names = [name for name in ear.names if name.startswith("LLM")]
        assert names[0] == f"LLM{kind}StartEvent"
        assert names[-1] == f"LLM{kind}EndEvent"
        assert set(names[1:-1]) <= {f"LLM{kind}InProgressEvent"}
        own = [event for event in ear.heard if event.class_name() in names]
        assert len({event.span_id for event in own}) == 1
        assert ear.names.index(names[0]) == 0
        assert ear.names[-1] == names[-1]

    async def test_callbacks_hear_a_start_and_an_end_of_each_call(self, llm: LLM) -> None:
        handler = LlamaDebugHandler(print_trace_on_end=False)
        heard = self.copy_of(llm, callback_manager=CallbackManager([handler]))
        await in_every_way(heard, self.question)
        pairs = handler.get_event_pairs(CBEventType.LLM)
        assert [len(pair) for pair in pairs] == [2] * 8


class Faults(Base):
    """Errors, concurrency, cancelling."""

    def test_an_error_of_the_model_reaches_the_caller(self, broken_llm: LLM) -> None:
        with pytest.raises(Exception):  # noqa: B017
            broken_llm.chat(user(self.question))

    @pytest.mark.parametrize("method", ["stream_chat", "stream_complete"])
    def test_an_error_in_a_stream_does_not_hang_its_consumer(
        self, broken_llm: LLM, method: str
    ) -> None:
        question: Any = user(self.question) if "chat" in method else self.question
        assert error_of(lambda: list(getattr(broken_llm, method)(question))) is not None

    @pytest.mark.parametrize("method", ["achat", "acomplete", "astream_chat", "astream_complete"])
    def test_an_error_in_async_does_not_hang(self, broken_llm: LLM, method: str) -> None:
        question: Any = user(self.question) if "chat" in method else self.question

        async def consume() -> None:
            answer = await getattr(broken_llm, method)(question)
            if "stream" in method:
                await drain(answer)

        assert error_of(lambda: asyncio.run(consume())) is not None

    @pytest.mark.parametrize("method", ["achat", "acomplete", "astream_chat", "astream_complete"])
    async def test_async_leaves_the_event_loop_free(self, llm: LLM, method: str) -> None:
        if not self.is_async_native:
            pytest.skip("`is_async_native` is False")
        longest, ticks, before = 0.0, 0, time.perf_counter()

        async def tick() -> None:
            nonlocal longest, ticks, before
            while True:
                await asyncio.sleep(0.001)
                now = time.perf_counter()
                longest, ticks, before = max(longest, now - before), ticks + 1, now

        question: Any = user(self.question) if "chat" in method else self.question
        ticking = asyncio.create_task(tick())
        started = time.perf_counter()
        answer = await getattr(llm, method)(question, **self.long_call)
        if "stream" in method:
            await drain(answer)
        seconds = time.perf_counter() - started
        ticking.cancel()
        assert ticks >= 3
        assert longest < max(0.5 * seconds, 0.05), f"blocked {longest:.3f} of {seconds:.3f} s"

    async def test_concurrent_answers_equal_those_one_after_another(self, llm: LLM) -> None:
        if not (self.runs_in_this_process and self.is_deterministic):
            pytest.skip("`runs_in_this_process` or `is_deterministic` is False")
        questions = [f"{self.question} {i}" for i in range(8)]
        alone = [text_of(llm.chat(user(question))) for question in questions]
        together = await asyncio.gather(*(llm.achat(user(q)) for q in questions))
        assert [text_of(response) for response in together] == alone
        with ThreadPoolExecutor(4) as pool:
            threaded = list(pool.map(lambda q: text_of(llm.chat(user(q))), questions))
        assert threaded == alone

    async def test_cancelling_ends_the_generation(self, llm: LLM) -> None:
        self._needs_is_busy(llm)
        task = asyncio.create_task(llm.achat(user(self.question), **self.long_call))
        await self._until(llm, busy=True)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await self._until(llm, busy=False)

    async def test_leaving_a_stream_early_ends_the_generation(self, llm: LLM) -> None:
        self._needs_is_busy(llm)
        stream = await llm.astream_chat(user(self.question), **self.long_call)
        await anext(stream)
        await stream.aclose()
        await self._until(llm, busy=False)
        sync = llm.stream_complete(self.question, **self.long_call)
        next(sync)
        sync.close()
        await self._until(llm, busy=False)

    def _needs_is_busy(self, llm: LLM) -> None:
        if self.is_busy(llm) is None:
            pytest.skip("`is_busy` cannot tell")

    async def _until(self, llm: LLM, *, busy: bool) -> None:
        for _ in range(1000):
            if self.is_busy(llm) is busy:
                return
            await asyncio.sleep(0.005)
        pytest.fail("nothing is generated" if busy else "the generation goes on")
