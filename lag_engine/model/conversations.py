"""Conversations as chat templates want them: messages and tools in a model's own words."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lag_engine.errors import GenerationError

if TYPE_CHECKING:
    from lag_engine.model.tools import ToolFormat

Message = Mapping[str, Any]
"""`{"role": ..., "content": ...}`, and whatever else the model's chat template reads."""

_SHORT_ID = 9
"""The length that Mistral's templates ask of a call's id."""


def written_out(messages: Sequence[Message], known: ToolFormat | None) -> list[dict[str, Any]]:
    """The messages as templates read them: no content is "", arguments are mappings.

    Raises:
        GenerationError: a call's arguments are neither a mapping nor JSON of one.
    """
    return [_written(message, known) for message in messages]


def _written(message: Message, known: ToolFormat | None) -> dict[str, Any]:
    result = dict(message)
    if result.get("content") is None:
        result["content"] = ""
    if result.get("tool_calls"):
        result["tool_calls"] = [_call(call, known) for call in result["tool_calls"]]
    elif "tool_calls" in result:
        del result["tool_calls"]
    if known is not None and known.family == "mistral" and "tool_call_id" in result:
        result["tool_call_id"] = _short(result["tool_call_id"])
    return result


def _call(call: Any, known: ToolFormat | None) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, Mapping) else None
    arguments = function.get("arguments") if isinstance(function, Mapping) else None
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError:
            arguments = None
    if not isinstance(arguments, Mapping):
        raise GenerationError(
            'Expected tool calls like {"id", "function": {"name", "arguments"}}',
            f"got {call!r:.200}",
            "pass the arguments as a mapping",
        )
    result = {**call, "function": {**call["function"], "arguments": dict(arguments)}}
    if known is not None and known.family == "mistral" and "id" in result:
        result["id"] = _short(result["id"])
    return result


def _short(call_id: object) -> str:
    """The id, or one of nine letters and digits that stands for it."""
    text = str(call_id)
    if len(text) == _SHORT_ID and text.isalnum():
        return text
    return hashlib.sha256(text.encode()).hexdigest()[:_SHORT_ID]


def merged(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages with neighbours of one role joined by a blank line, where both are text."""
    result: list[dict[str, Any]] = []
    for message in messages:
        if (
            result
            and _is_text(message)
            and _is_text(result[-1])
            and _same_speaker(result[-1], message)
        ):
            content = f"{result[-1]['content']}\n\n{message['content']}"
            result[-1] = {**result[-1], "content": content}
        else:
            result.append(message)
    return result


def _is_text(message: Message) -> bool:
    is_plain = message.get("role") in ("system", "user", "assistant")
    return is_plain and isinstance(message["content"], str) and "tool_calls" not in message


def _same_speaker(first: Message, second: Message) -> bool:
    return first["role"] == second["role"] and first.get("name") == second.get("name")
