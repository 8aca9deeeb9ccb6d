"""The engine's answers as LlamaIndex's responses: blocks, cumulative streams, usage in `raw`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    ContentBlock,
    LogProb,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)

if TYPE_CHECKING:
    from lag_engine import Generation, StreamPiece, TokenLogprob, ToolCall


def chat_response(generation: Generation, raw: dict[str, Any] | None) -> ChatResponse:
    """The whole answer as one response."""
    message = _message(generation.text, generation.reasoning, generation.tool_calls)
    return ChatResponse(message=message, raw=raw, logprobs=_logprobs(generation))


def completion_response(generation: Generation, raw: dict[str, Any] | None) -> CompletionResponse:
    """The whole answer as one completion."""
    return CompletionResponse(text=generation.text, raw=raw, logprobs=_logprobs(generation))


class Growing:
    """A streamed answer, which makes responses of its pieces.

    Their `delta` is the new text, all else has grown so far. Only the last one has `raw`, which
    tells of the whole answer.
    """

    def __init__(self) -> None:
        self.text = ""
        self.reasoning = ""
        self.tool_calls: tuple[ToolCall, ...] = ()

    def take(self, piece: StreamPiece) -> bool:
        """Adds a piece; returns whether it has anything to show."""
        self.text += piece.text
        self.reasoning += piece.reasoning
        self.tool_calls += piece.tool_calls
        shown = piece.text or piece.reasoning or piece.tool_calls or piece.generation
        return bool(shown)

    def chat(self, piece: StreamPiece, raw: dict[str, Any] | None) -> ChatResponse:
        """The response after the piece."""
        thought = {"thinking_delta": piece.reasoning} if piece.reasoning else {}
        return ChatResponse(
            message=_message(self.text, self.reasoning, self.tool_calls),
            delta=piece.text,
            raw=raw,
            logprobs=_logprobs(piece),
            additional_kwargs=thought,
        )

    def completion(self, piece: StreamPiece, raw: dict[str, Any] | None) -> CompletionResponse:
        """The completion after the piece."""
        return CompletionResponse(
            text=self.text, delta=piece.text, raw=raw, logprobs=_logprobs(piece)
        )


def _message(text: str, reasoning: str, calls: Sequence[ToolCall]) -> ChatMessage:
    blocks: list[ContentBlock] = []
    if reasoning:
        blocks.append(ThinkingBlock(content=reasoning))
    if text or not calls:
        blocks.append(TextBlock(text=text))
    blocks += [
        ToolCallBlock(tool_call_id=call.id, tool_name=call.name, tool_kwargs=dict(call.arguments))
        for call in calls
    ]
    # Core's streaming programs look for calls here, and only here.
    legacy = {"tool_calls": [_openai_call(call) for call in calls]} if calls else {}
    return ChatMessage(role=MessageRole.ASSISTANT, blocks=blocks, additional_kwargs=legacy)


def _openai_call(call: ToolCall) -> dict[str, Any]:
    arguments = json.dumps(dict(call.arguments), ensure_ascii=False)
    function = {"name": call.name, "arguments": arguments}
    return {"id": call.id, "type": "function", "function": function}


def _logprobs(answer: Generation | StreamPiece) -> list[list[LogProb]] | None:
    """Per token the chosen one, then the likeliest others; None if nobody asked."""
    if answer.logprobs is None:
        return None
    return [[_logprob(token), *_others(token)] for token in answer.logprobs]


def _others(token: TokenLogprob) -> list[LogProb]:
    return [_logprob(other) for other in token.top if other.token_id != token.token_id]


def _logprob(token: TokenLogprob) -> LogProb:
    return LogProb(token=token.text, logprob=token.logprob, bytes=list(token.text.encode()))
