"""The engine's answers as LangChain's messages and chunks, with usage, calls and routing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from langchain_core.messages import AIMessage, AIMessageChunk, InvalidToolCall, ToolCallChunk
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import (
    invalid_tool_call,
    tool_call,
    tool_call_chunk,
)
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

from lag_integrations.call_settings import TraceDetail

if TYPE_CHECKING:
    from lag_engine import Generation, StreamPiece, TokenLogprob, ToolCall

PROVIDER = "lag"


def to_chat_result(generation: Generation, metadata: dict[str, Any]) -> ChatResult:
    """The whole answer as one message."""
    message = AIMessage(
        content=generation.text,
        additional_kwargs=_reasoning(generation.reasoning),
        tool_calls=[
            tool_call(name=call.name, args=call.arguments, id=call.id)
            for call in generation.tool_calls
        ],
        invalid_tool_calls=_broken(generation),
        response_metadata=metadata,
        usage_metadata=usage_metadata(generation),
    )
    return ChatResult(generations=[ChatGeneration(message=message)])


def to_chunk(piece: StreamPiece, *, n_calls: int) -> ChatGenerationChunk | None:
    """A piece of the answer and no metadata, since merging joins strings and adds numbers.

    Args:
        piece: not the last.
        n_calls: how many calls came before it; a call's index tells calls apart on merging.

    Returns:
        The chunk, or None if the piece has nothing to tell.
    """
    if not (piece.text or piece.reasoning or piece.tool_calls):
        return None
    return ChatGenerationChunk(
        message=AIMessageChunk(
            content=piece.text,
            additional_kwargs=_reasoning(piece.reasoning),
            tool_call_chunks=_call_chunks(piece.tool_calls, first=n_calls),
        )
    )


def to_last_chunk(
    piece: StreamPiece, generation: Generation, metadata: dict[str, Any], *, n_calls: int
) -> ChatGenerationChunk:
    """The last piece, the only one that carries usage and metadata."""
    chunks = _call_chunks(piece.tool_calls, first=n_calls)
    for broken in _broken(generation):
        index = n_calls + len(chunks)
        chunks.append(tool_call_chunk(name=None, args=broken["args"], id=None, index=index))
    return ChatGenerationChunk(
        message=AIMessageChunk(
            content=piece.text,
            additional_kwargs=_reasoning(piece.reasoning),
            tool_call_chunks=chunks,
            response_metadata=metadata,
            usage_metadata=usage_metadata(generation),
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
    logprobs = generation.logprobs
    return {
        "model_name": model,
        "model_provider": PROVIDER,
        "finish_reason": generation.finish_reason,
        "lag_routing": generation.account(trace),
        **({} if logprobs is None else {"logprobs": {"content": [_logprob(t) for t in logprobs]}}),
        **extra,
    }


def usage_metadata(generation: Generation) -> UsageMetadata:
    """The answer's token counts."""
    usage = generation.usage
    return UsageMetadata(
        input_tokens=usage.prompt_tokens,
        output_tokens=usage.completion_tokens,
        total_tokens=usage.total_tokens,
    )


def _reasoning(text: str) -> dict[str, str]:
    """Under the key from which LangChain makes its reasoning blocks."""
    return {"reasoning_content": text} if text else {}


def _broken(generation: Generation) -> list[InvalidToolCall]:
    """The call that the token limit cut off, if there is one."""
    text = generation.broken_tool_call
    if not text:
        return []
    if text.startswith("{"):  # from which a merged stream would make a whole call
        text = json.dumps(text, ensure_ascii=False)
    error = "The call was cut off by max_tokens"
    return [invalid_tool_call(name=None, args=text, id=None, error=error)]


def _call_chunks(calls: Sequence[ToolCall], *, first: int) -> list[ToolCallChunk]:
    return [
        tool_call_chunk(
            name=call.name,
            args=json.dumps(call.arguments, ensure_ascii=False),
            id=call.id,
            index=first + i,
        )
        for i, call in enumerate(calls)
    ]


def _logprob(token: TokenLogprob) -> dict[str, Any]:
    """In OpenAI's form, which is the one that LangChain's users read."""
    return {**_told(token), "top_logprobs": [_told(other) for other in token.top]}


def _told(token: TokenLogprob) -> dict[str, Any]:
    return {"token": token.text, "bytes": list(token.text.encode()), "logprob": token.logprob}
