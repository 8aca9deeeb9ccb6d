"""The engine's answers as LangChain's messages and chunks, with usage and routing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

if TYPE_CHECKING:
    from lag_engine import Generation

PROVIDER = "lag"
TraceDetail = Literal["none", "summary", "full"]


def to_chat_result(generation: Generation, metadata: dict[str, Any]) -> ChatResult:
    """The whole answer as one message."""
    message = AIMessage(
        content=generation.text, response_metadata=metadata, usage_metadata=_usage(generation)
    )
    return ChatResult(generations=[ChatGeneration(message=message)])


def to_chunk(text: str) -> ChatGenerationChunk:
    """A piece of the answer, and nothing else: merging chunks joins strings and adds numbers."""
    return ChatGenerationChunk(message=AIMessageChunk(content=text))


def to_last_chunk(
    text: str, generation: Generation, metadata: dict[str, Any]
) -> ChatGenerationChunk:
    """The last piece, the only one that carries usage and metadata."""
    return ChatGenerationChunk(
        message=AIMessageChunk(
            content=text,
            response_metadata=metadata,
            usage_metadata=_usage(generation),
            chunk_position="last",
        )
    )


def response_metadata(
    generation: Generation, *, model: str, trace: TraceDetail, extra: dict[str, Any]
) -> dict[str, Any]:
    """What the answer says about its making: JSON-able, and complete about what was applied.

    Args:
        generation: the finished answer.
        model: the name it was asked for by.
        trace: how much of the routing to include under "lag_routing".
        extra: more keys, such as what became of the documents.
    """
    return {
        "model_name": model,
        "model_provider": PROVIDER,
        "finish_reason": generation.finish_reason,
        "lag_routing": _routing(generation, trace),
        **extra,
    }


def _routing(generation: Generation, trace: TraceDetail) -> dict[str, Any]:
    routing: dict[str, Any] = {"mode": generation.plan.mode, "plan": generation.plan.key}
    if generation.trace is not None:
        routing.update(generation.trace.summary())
        if trace == "full":
            routing["trace"] = generation.trace.to_dict()
    return routing


def _usage(generation: Generation) -> UsageMetadata:
    usage = generation.usage
    return UsageMetadata(
        input_tokens=usage.prompt_tokens,
        output_tokens=usage.completion_tokens,
        total_tokens=usage.total_tokens,
    )
