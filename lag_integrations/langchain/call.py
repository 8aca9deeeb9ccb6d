"""One call to the model: its engine, its messages, and what the engine is asked to do."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from langchain_core.messages import BaseMessage

from lag_engine import GenerationError
from lag_integrations.aio import iterate
from lag_integrations.call_settings import TraceDetail, engine_options, refuse_unknown
from lag_integrations.document_use import decide
from lag_integrations.engines import get_engine
from lag_integrations.generated import ready
from lag_integrations.langchain.messages import (
    EngineMessage,
    speaks_of_tools,
    to_engine_messages,
)
from lag_integrations.langchain.results import response_metadata
from lag_integrations.langchain.settings import LAGSettings
from lag_integrations.langchain.tool_documents import use_tool_documents
from lag_integrations.langchain.tools import to_tool_choice, to_tools
from lag_integrations.modes import pins_adapters

if TYPE_CHECKING:
    from lag_engine import Generation, LAGEngine, StreamPiece

OURS = ("model", "lag_documents", "top_logprobs")
BY_THE_FRAMEWORK = ("stream", "ls_structured_output_format")


@dataclass(frozen=True)
class Call:
    """A prepared call.

    Args:
        engine: answers it.
        model: the name the engine was asked for by.
        prompt: messages in the engine's form, or raw text.
        options: keyword arguments of `LAGEngine.generate` and `LAGEngine.stream`, after `ready`.
        trace: how much routing the answer tells.
        extra: more response metadata.
    """

    engine: LAGEngine
    model: str
    prompt: list[EngineMessage] | str
    options: dict[str, Any]
    trace: TraceDetail
    extra: dict[str, Any]

    def generate(self) -> Generation:
        """The engine's answer."""
        with ready(self.engine, self.options) as options:
            return self.engine.generate(self.prompt, **options)

    def stream(self) -> Generator[StreamPiece, None, None]:
        """The engine's pieces of the answer; closing it ends the generation."""
        with ready(self.engine, self.options) as options:
            yield from self.engine.stream(self.prompt, **options)

    async def agenerate(self) -> Generation:
        """The engine's answer; the event loop stays free, and cancelling ends the generation."""
        async with aclosing(iterate(self.stream)) as pieces:
            *_, last = [piece async for piece in pieces]
        assert last.generation is not None
        return last.generation

    def metadata(self, generation: Generation) -> dict[str, Any]:
        """The response metadata of the finished answer."""
        return response_metadata(generation, model=self.model, trace=self.trace, extra=self.extra)


def prepare(
    llm: LAGSettings,
    prompt: Sequence[BaseMessage] | str,
    *,
    stop: list[str] | None,
    arguments: dict[str, Any],
) -> Call:
    """Checks a call's keyword arguments and fills in the model's own settings for the rest.

    Raises:
        GenerationError: an argument is unknown, or a message cannot be read by the model.
        PlanError: the mode, its adapters and its options do not fit together.
        LagError: the engine cannot be loaded.
    """
    refuse_unknown(arguments, more=(*OURS, *BY_THE_FRAMEWORK))
    name = str(arguments.get("model") or llm.model)
    engine = get_engine(llm.engine_key.for_model(name))
    asked = {**arguments, "stop": stop, **_reply_settings(llm, arguments)}
    if not isinstance(prompt, str):
        prompt, of_documents = _use_documents(llm, engine, prompt, asked)
        asked.update(of_documents)
    documents = asked.get("lag_documents")
    return Call(
        engine=engine,
        model=name,
        prompt=prompt if isinstance(prompt, str) else _readable(engine, prompt),
        options=engine_options(llm, engine, asked),
        trace=cast("TraceDetail", arguments.get("trace", llm.trace)),
        extra={} if documents is None else {"lag_documents": documents},
    )


def _use_documents(
    llm: LAGSettings, engine: LAGEngine, messages: Sequence[BaseMessage], arguments: dict[str, Any]
) -> tuple[Sequence[BaseMessage], dict[str, Any]]:
    """The messages and call arguments that use the documents which tools have retrieved.

    A plan of the caller's, or a chain that has decided, is left alone.
    """
    if arguments.get("plan") is not None or arguments.get("lag_documents") is not None:
        return messages, {}
    mode = str(arguments.get("mode") or llm.mode)
    own = llm.adapters if mode == llm.mode or pins_adapters(mode) else None
    adapters = arguments.get("adapters", own)
    use = use_tool_documents(messages, mode=mode, adapters=adapters, library=engine.library)
    if use is not None:
        told = {"mode": use.mode, "adapters": use.adapters, "lag_documents": use.record}
        return use.messages, told
    if pins_adapters(mode) and not adapters and arguments.get("tools"):
        # An agent in a mode that pins has nothing to pin before its first retrieval.
        none_yet = decide([], mode=mode, documents=None)
        return messages, {"mode": none_yet.mode, "lag_documents": none_yet.record}
    return messages, {}


def _reply_settings(llm: LAGSettings, arguments: dict[str, Any]) -> dict[str, Any]:
    """LangChain's ways to ask for tools and log-probabilities as the engine's."""
    tools = to_tools(arguments.get("tools") or ())
    choice = to_tool_choice(arguments.get("tool_choice"), tools) if tools else None
    n_alternatives = arguments.get("top_logprobs", llm.top_logprobs)
    if n_alternatives is None and arguments.get("logprobs", llm.logprobs):
        n_alternatives = 0
    return {"tools": tools or None, "tool_choice": choice, "logprobs": n_alternatives}


def _readable(engine: LAGEngine, prompt: Sequence[BaseMessage]) -> list[EngineMessage]:
    """Refuses calls and results for a model whose template would drop or garble them."""
    messages = to_engine_messages(prompt)
    if speaks_of_tools(messages) and not engine.supports_tools:
        raise GenerationError(
            "Expected a conversation without tool calls, since the model's chat template has none",
            f"found some in the messages for '{engine.name}'",
            "Use a model whose template renders tools, or turn the results into user messages",
        )
    return messages
