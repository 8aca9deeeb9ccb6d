"""What the tests of the suite share: switches, fixtures, and the answers in every way."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from typing import Any, ClassVar, Literal

import pytest
from llama_index.core import PromptTemplate
from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    MessageRole,
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
