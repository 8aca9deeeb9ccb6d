"""The engine's answers in OpenAI's JSON, whole and in chunks."""

from __future__ import annotations

import json
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from lag_engine.serving import logprobs

if TYPE_CHECKING:
    from lag_engine.model.generation import (
        Generation,
        StreamPiece,
        TokenLogprob,
        TraceDetail,
        Usage,
    )
    from lag_engine.model.tools import ToolCall


class Replies:
    """Writes the reply to one request.

    Args:
        model: the name it was asked for by.
        trace: how much of the routing each choice tells.
        n_samples: answers to one prompt; their prompt tokens are counted once.
        includes_usage: whether a stream ends with the token counts.
    """

    PREFIX: ClassVar[str]
    WHOLE: ClassVar[str]
    CHUNK: ClassVar[str]

    def __init__(
        self, model: str, *, trace: TraceDetail, n_samples: int = 1, includes_usage: bool = False
    ) -> None:
        self.id = f"{self.PREFIX}-{uuid.uuid4().hex}"
        self.model = model
        self.trace = trace
        self.n_samples = n_samples
        self.includes_usage = includes_usage
        self._created = int(time.time())
        self._opened: set[int] = set()
        self._usages: dict[int, Usage] = {}

    def whole(self, generations: Sequence[Generation]) -> dict[str, Any]:
        """The reply to a request that does not stream."""
        choices = [self._ended(i, g, self._choice(i, g)) for i, g in enumerate(generations)]
        return {**self._envelope(self.WHOLE, choices), "usage": self._usage()}

    def chunks(self, index: int, piece: StreamPiece) -> Iterator[dict[str, Any]]:
        """The chunks that tell one piece of an answer."""
        if index not in self._opened:
            self._opened.add(index)
            yield from self._opening(index)
        content = self._content(index, piece)
        if content or piece.generation is None:
            yield self._chunk(self._part(index, content, piece.logprobs))
        if piece.generation is not None:
            rest = None if content else piece.logprobs
            closing = self._part(index, self._last_content(piece.generation), rest)
            closing["finish_reason"] = piece.generation.finish_reason
            yield self._chunk(self._ended(index, piece.generation, closing))

    def last_chunks(self) -> Iterator[dict[str, Any]]:
        """What follows when all answers are whole."""
        if self.includes_usage:
            yield {**self._envelope(self.CHUNK, []), "usage": self._usage()}

    def _choice(self, index: int, generation: Generation) -> dict[str, Any]:
        """One answer of a reply that does not stream."""
        raise NotImplementedError

    def _content(self, index: int, piece: StreamPiece) -> dict[str, Any]:
        """What a piece adds to the answer."""
        raise NotImplementedError

    def _part(
        self, index: int, content: dict[str, Any], tokens: Sequence[TokenLogprob] | None
    ) -> dict[str, Any]:
        """One answer's part in a chunk."""
        raise NotImplementedError

    def _opening(self, index: int) -> Iterator[dict[str, Any]]:
        """The chunks before an answer's first."""
        yield from ()

    def _last_content(self, generation: Generation) -> dict[str, Any]:
        """What an answer's last part holds, besides how it ended."""
        return {}

    def _chunk(self, choice: dict[str, Any]) -> dict[str, Any]:
        usage = {"usage": None} if self.includes_usage else {}
        return {**self._envelope(self.CHUNK, [choice]), **usage}

    def _envelope(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self._created,
            "model": self.model,
            "choices": choices,
        }

    def _ended(self, index: int, generation: Generation, choice: dict[str, Any]) -> dict[str, Any]:
        self._usages[index] = generation.usage
        return {**choice, "lag_routing": generation.account(self.trace)}

    def _usage(self) -> dict[str, int]:
        prompt = sum(u.prompt_tokens for i, u in self._usages.items() if i % self.n_samples == 0)
        written = sum(u.completion_tokens for u in self._usages.values())
        return {
            "prompt_tokens": prompt,
            "completion_tokens": written,
            "total_tokens": prompt + written,
        }


class ChatReplies(Replies):
    """Of /v1/chat/completions."""

    PREFIX = "chatcmpl"
    WHOLE = "chat.completion"
    CHUNK = "chat.completion.chunk"

    def __init__(self, model: str, **settings: Any) -> None:
        super().__init__(model, **settings)
        self._n_calls: Counter[int] = Counter()

    def _choice(self, index: int, generation: Generation) -> dict[str, Any]:
        message: dict[str, Any] = {
            "role": "assistant",
            "content": generation.text or (None if generation.tool_calls else ""),
            "refusal": None,
        }
        if generation.tool_calls:
            message["tool_calls"] = [_tool_call(call) for call in generation.tool_calls]
        message.update(_extras(generation))
        return {
            "index": index,
            "message": message,
            "logprobs": logprobs.chat(generation.logprobs),
            "finish_reason": generation.finish_reason,
        }

    def _opening(self, index: int) -> Iterator[dict[str, Any]]:
        yield self._chunk(self._part(index, {"role": "assistant", "content": ""}, None))

    def _content(self, index: int, piece: StreamPiece) -> dict[str, Any]:
        delta: dict[str, Any] = {}
        if piece.reasoning:
            delta["reasoning_content"] = piece.reasoning
        if piece.text:
            delta["content"] = piece.text
        if piece.tool_calls:
            delta["tool_calls"] = [self._call_delta(index, call) for call in piece.tool_calls]
        return delta

    def _call_delta(self, index: int, call: ToolCall) -> dict[str, Any]:
        self._n_calls[index] += 1
        return {"index": self._n_calls[index] - 1, **_tool_call(call)}

    def _part(
        self, index: int, content: dict[str, Any], tokens: Sequence[TokenLogprob] | None
    ) -> dict[str, Any]:
        return {
            "index": index,
            "delta": content,
            "logprobs": logprobs.chat(tokens),
            "finish_reason": None,
        }

    def _last_content(self, generation: Generation) -> dict[str, Any]:
        broken = generation.broken_tool_call
        return {"broken_tool_call": broken} if broken else {}


class CompletionReplies(Replies):
    """Of /v1/completions."""

    PREFIX = "cmpl"
    WHOLE = CHUNK = "text_completion"

    def __init__(self, model: str, **settings: Any) -> None:
        super().__init__(model, **settings)
        self._offsets: Counter[int] = Counter()

    def _choice(self, index: int, generation: Generation) -> dict[str, Any]:
        return {
            "index": index,
            "text": generation.text,
            "logprobs": logprobs.completion(generation.logprobs),
            "finish_reason": generation.finish_reason,
        }

    def _content(self, index: int, piece: StreamPiece) -> dict[str, Any]:
        return {"text": piece.text} if piece.text else {}

    def _part(
        self, index: int, content: dict[str, Any], tokens: Sequence[TokenLogprob] | None
    ) -> dict[str, Any]:
        told = logprobs.completion(tokens, offset=self._offsets[index])
        self._offsets[index] += sum(len(token.text) for token in tokens or ())
        return {"index": index, "text": "", **content, "logprobs": told, "finish_reason": None}


def _tool_call(call: ToolCall) -> dict[str, Any]:
    arguments = json.dumps(call.arguments, ensure_ascii=False)
    function = {"name": call.name, "arguments": arguments}
    return {"id": call.id, "type": "function", "function": function}


def _extras(generation: Generation) -> dict[str, str]:
    """What OpenAI's message has no field for, where there is any."""
    extras = {
        "reasoning_content": generation.reasoning,
        "broken_tool_call": generation.broken_tool_call,
    }
    return {name: text for name, text in extras.items() if text}
