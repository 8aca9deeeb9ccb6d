"""A conformance suite for LlamaIndex LLMs: what the framework's parts rely on, as tests.

Subclass `LLMConformance`, give it an `llm` fixture, and set the switches to what the class under
test claims. It needs `llama-index-core`, `pytest` and `pytest-asyncio`, and an LLM that answers
greedily, so that equal questions have equal answers.

    class TestMyLLM(LLMConformance):
        @pytest.fixture
        def llm(self):
            return MyLLM(temperature=0)
"""

from __future__ import annotations

import asyncio
import inspect
import json
import pickle
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar, Literal

import pytest
from llama_index.core import PromptTemplate
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    ImageBlock,
    LLMMetadata,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)
from llama_index.core.callbacks import (
    CallbackManager,
    CBEventType,
    LlamaDebugHandler,
    TokenCountingHandler,
)
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers.base import BaseEventHandler
from llama_index.core.llms import LLM
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.tools import FunctionTool
from pydantic import BaseModel, Field

ECHO = PromptTemplate("{text}")


class Weather(BaseModel):
    """The weather in a city; bounded, so that any model comes to its end."""

    city: str = Field(max_length=12)
    degrees: Literal[-10, 0, 10, 20]


def get_weather(city: str) -> str:
    """Tells the weather in a city."""
    return f"Sunny in {city}"


def get_time(zone: str) -> str:
    """Tells the time in a zone."""
    return f"Noon in {zone}"


WEATHER = FunctionTool.from_defaults(get_weather)
TIME = FunctionTool.from_defaults(get_time)


class Ear(BaseEventHandler):
    """Keeps the instrumentation events that it hears."""

    heard: list[Any]

    def handle(self, event: Any, **kwargs: Any) -> None:
        self.heard.append(event)

    @property
    def names(self) -> list[str]:
        return [event.class_name() for event in self.heard]


class Switches:
    """What the class under test claims, and how it is asked for it."""

    question = "Who is it?"
    """Gets an answer of at least four tokens, the same each time."""

    long_call: ClassVar[dict[str, Any]] = {"max_tokens": 200}
    """Arguments of a call, or of a copy, under which an answer takes a while."""

    max_tokens: str | None = "max_tokens"
    """The call argument that bounds an answer; None if calls cannot."""

    stop: str | None = "stop"
    """The call argument for a list of stop strings; None if calls have none."""

    returns_usage = True
    """`raw["usage"]` has prompt_tokens and completion_tokens, of a stream in its last response."""

    is_deterministic = True
    is_async_native = True
    """Async methods leave the event loop free."""

    has_structured_output = True
    supports_images = False
    runs_in_this_process = True
    """Concurrency and cancelling can be measured here."""

    def is_busy(self, llm: LLM) -> bool | None:
        """Whether something is generated right now; None if nobody can tell."""
        return None

    def count_prompt_tokens(self, llm: LLM, messages: Sequence[ChatMessage]) -> int | None:
        """How many tokens the model should read, special ones once; None if nobody can tell."""
        return None

    def copy_of(self, llm: LLM, **changes: Any) -> LLM:
        """The LLM with other constructor arguments."""
        return type(llm).from_dict(llm.to_dict(), **changes)


def memory() -> ChatMemoryBuffer:
    """Core's default memory leaves its database open."""
    return ChatMemoryBuffer.from_defaults(token_limit=500)


def user(text: str) -> list[ChatMessage]:
    return [ChatMessage(role=MessageRole.USER, content=text)]


def text_of(response: ChatResponse | CompletionResponse) -> str:
    if isinstance(response, CompletionResponse):
        return response.text
    return response.message.content or ""


def usage_of(response: ChatResponse | CompletionResponse) -> dict[str, int]:
    raw = response.raw if isinstance(response.raw, dict) else dict(response.raw)
    return dict(raw["usage"])


async def drain(stream: AsyncGenerator[Any, None]) -> list[Any]:
    return [item async for item in stream]


async def in_every_way(llm: LLM, question: str, **call: Any) -> dict[str, Any]:
    """The answer by each of the eight methods; of streams, all responses."""
    return {
        "chat": llm.chat(user(question), **call),
        "complete": llm.complete(question, **call),
        "achat": await llm.achat(user(question), **call),
        "acomplete": await llm.acomplete(question, **call),
        "stream_chat": list(llm.stream_chat(user(question), **call)),
        "stream_complete": list(llm.stream_complete(question, **call)),
        "astream_chat": await drain(await llm.astream_chat(user(question), **call)),
        "astream_complete": await drain(await llm.astream_complete(question, **call)),
    }


def error_of(work: Callable[[], Any], *, seconds: float = 10) -> BaseException | None:
    """What the work raises; fails if it does not end, and leaves it hanging in its thread."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        pytest.fail("the consumer hangs")
    return raised[0] if raised else None


def last(answers: dict[str, Any]) -> dict[str, Any]:
    return {name: a[-1] if isinstance(a, list) else a for name, a in answers.items()}


class Base(Switches):
    """Fixtures."""

    _answers: ClassVar[dict[str, dict[str, Any]]] = {}

    async def answers_of(self, llm: LLM) -> dict[str, Any]:
        """The question's answer in every way; each kind of LLM is asked once for all tests."""
        key = f"{type(self).__qualname__} {self.question} {llm.to_dict()}"
        if key not in self._answers:
            self._answers[key] = await in_every_way(llm, self.question)
        return self._answers[key]

    @pytest.fixture
    def llm(self) -> LLM:
        raise NotImplementedError("Give your subclass an `llm` fixture")

    @pytest.fixture
    def broken_llm(self) -> LLM:
        """An LLM whose generation fails, at once or in the middle of a stream."""
        pytest.skip("no `broken_llm` fixture")

    @pytest.fixture
    def tool_llm(self, llm: LLM) -> LLM:
        if not llm.metadata.is_function_calling_model:
            pytest.skip("`metadata.is_function_calling_model` is False")
        return llm

    @pytest.fixture
    def structured_llm(self, llm: LLM) -> LLM:
        if not self.has_structured_output:
            pytest.skip("`has_structured_output` is False")
        return llm

    @pytest.fixture
    def ear(self) -> Generator[Ear, None, None]:
        dispatcher, ear = get_dispatcher(), Ear(heard=[])
        dispatcher.add_event_handler(ear)
        yield ear
        dispatcher.event_handlers.remove(ear)


class Contract(Base):
    """The eight methods, metadata and serialised form."""

    def test_metadata_is_told_and_steady(self, llm: LLM) -> None:
        metadata = llm.metadata
        assert isinstance(metadata, LLMMetadata)
        assert metadata == llm.metadata
        assert metadata.context_window > metadata.num_output > 0
        assert metadata.model_name not in ("", "unknown")

    def test_it_has_a_class_name_of_its_own(self, llm: LLM) -> None:
        assert llm.class_name() not in ("", "base_component", "custom_llm")

    async def test_responses_have_the_types_that_callers_expect(self, llm: LLM) -> None:
        for name, answer in (await self.answers_of(llm)).items():
            expected = ChatResponse if "chat" in name else CompletionResponse
            for response in answer if isinstance(answer, list) else [answer]:
                assert isinstance(response, expected), name
        assert llm.chat(user(self.question)).message.role == MessageRole.ASSISTANT

    def test_sync_streams_are_generators(self, llm: LLM) -> None:
        for stream in (llm.stream_chat(user("Hi")), llm.stream_complete("Hi")):
            assert isinstance(stream, Generator)
            stream.close()

    async def test_async_streams_are_coroutines_that_return_generators(self, llm: LLM) -> None:
        for coroutine in (llm.astream_chat(user("Hi")), llm.astream_complete("Hi")):
            assert inspect.iscoroutine(coroutine)
            stream = await coroutine
            assert isinstance(stream, AsyncGenerator)
            await stream.aclose()

    async def test_streamed_text_is_cumulative_and_delta_is_new(self, llm: LLM) -> None:
        for name, responses in (await self.answers_of(llm)).items():
            if isinstance(responses, list):
                deltas = [response.delta or "" for response in responses]
                expected = ["".join(deltas[: i + 1]) for i in range(len(deltas))]
                assert [text_of(response) for response in responses] == expected, name

    async def test_answers_come_in_more_than_one_piece(self, llm: LLM) -> None:
        for name, responses in (await self.answers_of(llm)).items():
            if isinstance(responses, list):
                assert sum(bool(response.delta) for response in responses) > 1, name

    async def test_every_method_gives_the_same_answer(self, llm: LLM) -> None:
        if not self.is_deterministic:
            pytest.skip("`is_deterministic` is False")
        texts = {n: text_of(r) for n, r in last(await self.answers_of(llm)).items()}
        for kind in ("chat", "complete"):
            assert len({text for name, text in texts.items() if kind in name}) == 1, texts
        if llm.metadata.is_chat_model:  # then a completion is the user's message
            assert len(set(texts.values())) == 1, texts

    async def test_predict_and_stream_answer_as_chat_does(self, llm: LLM) -> None:
        if not (self.is_deterministic and llm.metadata.is_chat_model):
            pytest.skip("not deterministic, or no chat model")
        expected = text_of(llm.chat(user(self.question)))
        assert llm.predict(ECHO, text=self.question) == expected
        assert "".join(llm.stream(ECHO, text=self.question)) == expected
        assert await llm.apredict(ECHO, text=self.question) == expected
        tokens = await drain(await llm.astream(ECHO, text=self.question))
        assert "".join(tokens) == expected

    def test_conversations_of_every_shape_are_answered(self, llm: LLM) -> None:
        thought = [ThinkingBlock(content="Hm."), TextBlock(text="Yes.")]
        conversations = [
            [ChatMessage(role="system", content="Be kind."), *user("Hi")],
            [*user("Hi"), ChatMessage(role="assistant", content="Yes."), *user("And now?")],
            [*user("Hi"), *user("Again")],
            [*user("Hi"), ChatMessage(role="assistant", blocks=thought), *user("And now?")],
            [ChatMessage(role="user", blocks=[TextBlock(text="Hi"), TextBlock(text="again")])],
        ]
        for messages in conversations:
            assert isinstance(llm.chat(messages), ChatResponse)

    def test_calls_do_not_change_their_messages(self, llm: LLM) -> None:
        messages = [ChatMessage(role="system", content="Be kind."), *user(self.question)]
        before = [message.model_dump() for message in messages]
        llm.chat(messages)
        assert [message.model_dump() for message in messages] == before

    def test_blocks_that_it_cannot_read_are_rejected_loudly(self, llm: LLM) -> None:
        if self.supports_images:
            pytest.skip("`supports_images` is True")
        picture = ImageBlock(image=b"\x89PNG\r\n\x1a\n")
        with pytest.raises(Exception, match="image"):
            llm.chat([ChatMessage(blocks=[TextBlock(text="What is it?"), picture])])

    def test_its_serialised_form_makes_it_again(self, llm: LLM) -> None:
        told = llm.to_dict()
        assert told["class_name"] == llm.class_name()
        json.dumps(told)
        assert type(llm).from_dict(told).to_dict() == told

    def test_its_payload_for_traces_is_json(self, llm: LLM) -> None:
        assert json.loads(json.dumps(llm.to_payload()))["class_name"] == llm.class_name()

    @pytest.mark.filterwarnings("error")
    def test_it_survives_pickling(self, llm: LLM) -> None:
        assert pickle.loads(pickle.dumps(llm)).to_dict() == llm.to_dict()


class Prompts(Base):
    """Special tokens, the system prompt and the prompt functions."""

    def _tokens_read(self, response: ChatResponse | CompletionResponse) -> int:
        if not self.returns_usage:
            pytest.skip("`returns_usage` is False")
        return usage_of(response)["prompt_tokens"]

    def test_special_tokens_come_once(self, llm: LLM) -> None:
        messages = user(self.question)
        expected = self.count_prompt_tokens(llm, messages)
        if expected is None:
            pytest.skip("`count_prompt_tokens` cannot tell")
        assert self._tokens_read(llm.chat(messages)) == expected

    async def test_the_system_prompt_is_read_exactly_once_in_every_way(self, llm: LLM) -> None:
        said = [ChatMessage(role="system", content="Answer in one word."), *user(self.question)]
        expected = self._tokens_read(llm.chat(said))
        assert expected > self._tokens_read(llm.chat(user(self.question)))
        handler = TokenCountingHandler(tokenizer=str.split)
        polite = self.copy_of(
            llm,
            system_prompt="Answer in one word.",
            callback_manager=CallbackManager([handler]),
        )
        for name, response in last(await in_every_way(polite, self.question)).items():
            assert self._tokens_read(response) == expected, name
        polite.predict(ECHO, text=self.question)
        await polite.apredict(ECHO, text=self.question)
        counts = [event.prompt_token_count for event in handler.llm_token_counts]
        assert counts[-2:] == [expected] * 2

    async def test_completion_to_prompt_is_used_in_every_completion(self, llm: LLM) -> None:
        framed = self.copy_of(llm, completion_to_prompt=lambda prompt: f"Say it: {prompt}")
        expected = self._tokens_read(llm.complete(f"Say it: {self.question}", formatted=True))
        answers = last(await in_every_way(framed, self.question))
        for name, response in answers.items():
            if "complete" in name:
                assert self._tokens_read(response) == expected, name

    def test_a_formatted_prompt_is_not_framed_again(self, llm: LLM) -> None:
        framed = self.copy_of(
            llm,
            completion_to_prompt=lambda prompt: f"Say it: {prompt}",
            system_prompt="Answer in one word.",
        )
        plain = self._tokens_read(llm.complete(self.question, formatted=True))
        assert self._tokens_read(framed.complete(self.question, formatted=True)) == plain


class Calls(Base):
    """Arguments of a call, and what its response tells."""

    async def test_usage_is_told_in_every_way(self, llm: LLM) -> None:
        if not self.returns_usage:
            pytest.skip("`returns_usage` is False")
        usages = {n: usage_of(r) for n, r in last(await self.answers_of(llm)).items()}
        for name, usage in usages.items():
            assert usage["prompt_tokens"] > 0 < usage["completion_tokens"], name
        if self.is_deterministic and llm.metadata.is_chat_model:
            assert len({json.dumps(usage) for usage in usages.values()}) == 1, usages

    async def test_raw_is_json_without_tensors(self, llm: LLM) -> None:
        for name, response in last(await self.answers_of(llm)).items():
            if isinstance(response.raw, dict):
                assert json.loads(json.dumps(response.raw)) == response.raw, name

    async def test_the_token_counting_handler_counts_what_usage_tells(self, llm: LLM) -> None:
        if not self.returns_usage:
            pytest.skip("`returns_usage` is False")
        handler = TokenCountingHandler(tokenizer=str.split)
        heard = self.copy_of(llm, callback_manager=CallbackManager([handler]))
        usages = [usage_of(r) for r in last(await in_every_way(heard, self.question)).values()]
        assert handler.prompt_llm_token_count == sum(u["prompt_tokens"] for u in usages)
        assert handler.completion_llm_token_count == sum(u["completion_tokens"] for u in usages)

    async def test_max_tokens_of_a_call_is_honoured_in_every_way(self, llm: LLM) -> None:
        if self.max_tokens is None or not self.returns_usage:
            pytest.skip("`max_tokens` is None, or no usage")
        answers = last(await in_every_way(llm, self.question, **{self.max_tokens: 2}))
        for name, response in answers.items():
            assert usage_of(response)["completion_tokens"] <= 2, name

    async def test_stop_strings_of_several_tokens_end_the_answer_before_them(
        self, llm: LLM
    ) -> None:
        if self.stop is None or not self.is_deterministic:
            pytest.skip("`stop` is None, or not deterministic")
        whole = text_of(llm.chat(user(self.question)))
        assert len(whole) >= 12, "Set `question` to one with a longer answer"
        stop = whole[len(whole) // 3 : 2 * len(whole) // 3]
        expected = whole[: whole.index(stop)]
        answers = last(await in_every_way(llm, self.question, **{self.stop: [stop]}))
        for name, response in answers.items():
            if "chat" in name or llm.metadata.is_chat_model:
                assert text_of(response).strip() == expected.strip(), name


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


class Structured(Base):
    """Structured prediction."""

    prompt = PromptTemplate("What is the weather in {city}?")

    async def test_structured_predict_gives_an_instance(self, structured_llm: LLM) -> None:
        assert isinstance(
            structured_llm.structured_predict(Weather, self.prompt, city="Oslo"), Weather
        )
        told = await structured_llm.astructured_predict(Weather, self.prompt, city="Oslo")
        assert isinstance(told, Weather)

    async def test_structured_streams_end_with_an_instance(self, structured_llm: LLM) -> None:
        whole = structured_llm.structured_predict(Weather, self.prompt, city="Oslo")
        parts = list(structured_llm.stream_structured_predict(Weather, self.prompt, city="Oslo"))
        stream = await structured_llm.astream_structured_predict(Weather, self.prompt, city="Oslo")
        for partial in (parts[-1], (await drain(stream))[-1]):
            assert isinstance(partial, Weather)
            assert partial == whole or not self.is_deterministic

    async def test_a_structured_llm_answers_with_instances(self, structured_llm: LLM) -> None:
        structured = structured_llm.as_structured_llm(Weather)
        assert isinstance(structured.chat(user("The weather in Oslo")).raw, Weather)
        assert isinstance((await structured.achat(user("The weather in Oslo"))).raw, Weather)


@pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecationWarning")
class Tools(Base):
    """Function calling."""

    question_for_tool = "What is the weather in Paris?"

    async def test_a_required_call_comes_with_arguments_of_the_schema(self, tool_llm: LLM) -> None:
        call: dict[str, Any] = {"user_msg": self.question_for_tool, "tool_required": True}
        llm: Any = tool_llm
        stream = await llm.astream_chat_with_tools([WEATHER], **call)
        for response in (
            llm.chat_with_tools([WEATHER], **call),
            await llm.achat_with_tools([WEATHER], **call),
            list(llm.stream_chat_with_tools([WEATHER], **call))[-1],
            (await drain(stream))[-1],
        ):
            (selection,) = llm.get_tool_calls_from_response(response)
            assert selection.tool_name == "get_weather"
            assert set(selection.tool_kwargs) == {"city"}
            assert isinstance(selection.tool_kwargs["city"], str)
            assert selection.tool_id
            blocks = [b for b in response.message.blocks if isinstance(b, ToolCallBlock)]
            assert [block.tool_name for block in blocks] == ["get_weather"]

    def test_a_named_tool_is_the_one_that_is_called(self, tool_llm: LLM) -> None:
        llm: Any = tool_llm
        for name in ("get_time", "get_weather"):
            response = llm.chat_with_tools(
                [WEATHER, TIME], user_msg=self.question_for_tool, tool_choice=name
            )
            assert [s.tool_name for s in llm.get_tool_calls_from_response(response)] == [name]

    def test_one_call_at_a_time_unless_parallel_calls_are_allowed(self, tool_llm: LLM) -> None:
        llm: Any = tool_llm
        response = llm.chat_with_tools(
            [WEATHER], user_msg="The weather in Paris and in Oslo?", tool_required=True
        )
        assert len(llm.get_tool_calls_from_response(response)) == 1

    def test_no_call_is_an_error_only_if_one_is_asked_for(self, tool_llm: LLM) -> None:
        llm: Any = tool_llm
        response = llm.chat(user(self.question))
        assert llm.get_tool_calls_from_response(response, error_on_no_tool_call=False) == []
        with pytest.raises(Exception):  # noqa: B017
            llm.get_tool_calls_from_response(response, error_on_no_tool_call=True)

    def test_tools_are_part_of_what_is_read(self, tool_llm: LLM) -> None:
        if not self.returns_usage:
            pytest.skip("`returns_usage` is False")
        llm: Any = tool_llm
        plain = usage_of(llm.chat(user(self.question_for_tool)))
        offered = usage_of(llm.chat_with_tools([WEATHER], user_msg=self.question_for_tool))
        assert offered["prompt_tokens"] > plain["prompt_tokens"]

    def test_calls_and_results_in_a_conversation_are_read(self, tool_llm: LLM) -> None:
        call = ToolCallBlock(
            tool_call_id="call_1", tool_name="get_weather", tool_kwargs={"city": "Paris"}
        )
        conversation = [
            *user(self.question_for_tool),
            ChatMessage(role="assistant", blocks=[call]),
            ChatMessage(role="tool", content="Sunny", additional_kwargs={"tool_call_id": "call_1"}),
        ]
        llm: Any = tool_llm
        assert isinstance(llm.chat_with_tools([WEATHER], chat_history=conversation), ChatResponse)

    async def test_predict_and_call_runs_the_tool(self, tool_llm: LLM) -> None:
        call: dict[str, Any] = {"user_msg": self.question_for_tool, "tool_required": True}
        llm: Any = tool_llm
        assert llm.predict_and_call([WEATHER], **call).response.startswith("Sunny in ")
        answer = await llm.apredict_and_call([WEATHER], **call)
        assert answer.response.startswith("Sunny in ")

    async def test_a_function_agent_comes_to_an_end(self, tool_llm: LLM) -> None:
        agent = FunctionAgent(tools=[WEATHER], llm=tool_llm, initial_tool_choice="get_weather")
        response = await agent.run(self.question_for_tool, memory=memory(), max_iterations=5)
        assert response.tool_calls
        assert response.tool_calls[0].tool_output.content.startswith("Sunny in ")


class LLMConformance(Contract, Prompts, Calls, Events, Faults, Structured, Tools):
    """All of it."""
