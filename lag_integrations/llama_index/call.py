"""One call to the model: its engine, its prompt, what is asked, and what is told of the answer."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import aclosing, closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from llama_index.core.base.llms.generic_utils import messages_to_prompt as generic_prompt
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.llms.llm import default_completion_to_prompt

from lag_engine import GenerationError
from lag_integrations.aio import iterate
from lag_integrations.call_settings import (
    TraceDetail,
    engine_options,
    refuse_unknown,
)
from lag_integrations.engines import get_engine
from lag_integrations.generated import ready
from lag_integrations.llama_index.events import LAGRoutingEvent, dispatcher
from lag_integrations.llama_index.messages import (
    EngineMessage,
    to_engine_messages,
    with_system_prompt,
)
from lag_integrations.llama_index.tools import tool_choice_of, tool_schemas

if TYPE_CHECKING:
    from lag_engine import Generation, LAGEngine, StreamPiece
    from lag_integrations.llama_index.llm import LAGLLM

OTHER = ("model", "lag_documents")


@dataclass(frozen=True)
class Call:
    """A prepared call.

    Args:
        engine: answers it.
        model: the name the engine was asked for by.
        prompt: raw text, or messages in the engine's form.
        options: keyword arguments of `LAGEngine.generate` and `LAGEngine.stream`, after `ready`.
        trace: how much routing the answer tells.
        documents: what became of the retrieved documents, for the answer to tell.
    """

    engine: LAGEngine
    model: str
    prompt: str | list[EngineMessage]
    options: dict[str, Any]
    trace: TraceDetail
    documents: dict[str, Any] | None = None

    def run(self) -> Generation:
        """The whole answer."""
        with ready(self.engine, self.options) as options:
            return self.engine.generate(cast("Any", self.prompt), **options)

    def stream(self) -> Generator[StreamPiece, None, None]:
        """The engine's pieces of the answer; closing it ends the generation."""
        with (
            ready(self.engine, self.options) as options,
            closing(self.engine.stream(cast("Any", self.prompt), **options)) as pieces,
        ):
            yield from pieces

    def tell(self, generation: Generation | None, span_id: str | None) -> dict[str, Any] | None:
        """What the response's `raw` tells, once the answer is finished; JSON-able, no tensors.

        Sends the routing event too, into the span that the call began in.
        """
        if generation is None:
            return None
        raw = self._raw(generation)
        dispatcher.event(
            LAGRoutingEvent(
                model=self.model,
                finish_reason=generation.finish_reason,
                routing=raw["lag_routing"],
                documents=self.documents,
                span_id=span_id,
            )
        )
        return raw

    def _raw(self, generation: Generation) -> dict[str, Any]:
        usage = generation.usage
        raw: dict[str, Any] = {
            "model": self.model,
            "finish_reason": generation.finish_reason,
            "usage": {
                "prompt_tokens": usage.prompt_tokens,
                "completion_tokens": usage.completion_tokens,
                "total_tokens": usage.total_tokens,
            },
            "lag_routing": generation.account(self.trace),
        }
        if self.documents is not None:
            raw["lag_documents"] = self.documents
        if generation.broken_tool_call:
            raw["broken_tool_call"] = generation.broken_tool_call
        return raw


def prepare_chat(llm: LAGLLM, messages: Sequence[ChatMessage], arguments: dict[str, Any]) -> Call:
    """A call that answers a conversation.

    A model without a chat template, or with a `messages_to_prompt` of the user's, reads the text
    that `messages_to_prompt` makes.

    Raises:
        GenerationError: an argument is unknown, or a message cannot be read by the model.
        PlanError: the mode, its adapters and its options do not fit together.
        LagError: the engine cannot be loaded.
    """
    engine, model = _engine(llm, arguments)
    conversation = with_system_prompt(messages, llm.system_prompt)
    to_prompt = llm.messages_to_prompt
    messages_read = to_engine_messages(conversation)
    prompt: str | list[EngineMessage] = messages_read
    if to_prompt is not generic_prompt or not engine.tokenizer.chat_template:
        assert to_prompt is not None
        prompt = to_prompt(conversation)
    elif _speaks_of_tools(messages_read) and not engine.supports_tools:
        raise GenerationError(
            "Expected a conversation without tool calls, since the model's chat template has none",
            f"found some in the messages for '{model}'",
            "Use a model whose template renders tools, or turn the results into user messages",
        )
    return _call(llm, engine, model, prompt, arguments)


def prepare_completion(
    llm: LAGLLM, prompt: str, *, formatted: bool, arguments: dict[str, Any]
) -> Call:
    """A call that completes a prompt.

    A formatted prompt is read as it is. Another is, for a model with a chat template, the user's
    message; for one without, or with a `completion_to_prompt` of the user's, the text that the
    latter makes of it, behind the system prompt.

    Raises:
        LagError: as for `prepare_chat`.
    """
    engine, model = _engine(llm, arguments)
    if formatted:
        return _call(llm, engine, model, prompt, arguments)
    is_plain = llm.completion_to_prompt is default_completion_to_prompt
    if is_plain and llm.query_wrapper_prompt is None and engine.tokenizer.chat_template:
        return prepare_chat(llm, [ChatMessage(content=prompt)], arguments)
    assert llm.completion_to_prompt is not None
    text = llm._extend_prompt(llm.completion_to_prompt(prompt))  # noqa: SLF001
    return _call(llm, engine, model, text, arguments)


async def pieces_of(prepare: Callable[[], Call]) -> AsyncGenerator[tuple[Call, StreamPiece], None]:
    """The pieces of a call's answer, each with the call; prepared and run off the event loop.

    Closing or cancelling it ends the generation.
    """

    def steps() -> Generator[tuple[Call, StreamPiece], None, None]:
        call = prepare()
        with closing(call.stream()) as pieces:
            for piece in pieces:
                yield call, piece

    async with aclosing(iterate(steps)) as items:
        async for item in items:
            yield item


async def run_async(prepare: Callable[[], Call]) -> tuple[Call, Generation]:
    """A call and its whole answer, off the event loop; cancelling it ends the generation."""
    async with aclosing(pieces_of(prepare)) as items:
        async for call, piece in items:
            if piece.generation is not None:
                return call, piece.generation
    raise AssertionError("an answer's last piece has the generation")


def _speaks_of_tools(messages: list[EngineMessage]) -> bool:
    return any(m["role"] == "tool" or m.get("tool_calls") for m in messages)


def _engine(llm: LAGLLM, arguments: dict[str, Any]) -> tuple[LAGEngine, str]:
    refuse_unknown(arguments, more=OTHER)
    model = str(arguments.get("model") or llm.model)
    return get_engine(llm.engine_key.for_model(model)), model


def _call(
    llm: LAGLLM,
    engine: LAGEngine,
    model: str,
    prompt: str | list[EngineMessage],
    arguments: dict[str, Any],
) -> Call:
    asked = dict(arguments)
    if asked.get("tools"):
        asked["tools"] = tool_schemas(asked["tools"])
        asked["tool_choice"] = tool_choice_of(asked.get("tool_choice"), is_required=False)
    options = engine_options(llm, engine, asked)
    trace: TraceDetail = cast("TraceDetail", arguments.get("trace", llm.trace))
    return Call(engine, model, prompt, options, trace, arguments.get("lag_documents"))
