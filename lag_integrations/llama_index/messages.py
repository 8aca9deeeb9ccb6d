"""LlamaIndex's chat messages as the messages that the engine's chat template reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from llama_index.core.base.llms.types import (
    ChatMessage,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)

from lag_engine import GenerationError

ROLES = {
    MessageRole.SYSTEM: "system",
    MessageRole.DEVELOPER: "system",
    MessageRole.USER: "user",
    MessageRole.ASSISTANT: "assistant",
    MessageRole.CHATBOT: "assistant",
    MessageRole.MODEL: "assistant",
    MessageRole.TOOL: "tool",
    MessageRole.FUNCTION: "tool",
}

EngineMessage = dict[str, Any]


def to_engine_messages(messages: Sequence[ChatMessage]) -> list[EngineMessage]:
    """The conversation in the engine's form.

    Neighbours of the same role become one message, parted by an empty line, because many templates
    refuse repeated roles; results of tools stay apart, since each belongs to its own call.

    Raises:
        GenerationError: there is no message, or one has a block that the model cannot read.
    """
    if not messages:
        raise GenerationError("Expected at least one message", "got none", "Send a user message")
    merged: list[EngineMessage] = []
    for new in _with_tool_names(_engine_message(message) for message in messages):
        if merged and merged[-1]["role"] == new["role"] != "tool":
            _append(merged[-1], new)
        else:
            merged.append(new)
    return merged


def with_system_prompt(
    messages: Sequence[ChatMessage], system_prompt: str | None
) -> list[ChatMessage]:
    """The messages behind the system prompt, unless it already stands there.

    `predict` and the programs put it in front themselves, `chat` does not.
    """
    if not system_prompt:
        return list(messages)
    first = messages[0] if messages else None
    if first and first.role == MessageRole.SYSTEM and first.content == system_prompt:
        return list(messages)
    return [ChatMessage(role=MessageRole.SYSTEM, content=system_prompt), *messages]


def _engine_message(message: ChatMessage) -> EngineMessage:
    new: EngineMessage = {"role": ROLES[message.role], "content": _text(message)}
    if calls := _tool_calls(message):
        new["tool_calls"] = calls
    if message.role in (MessageRole.TOOL, MessageRole.FUNCTION):
        told = {key: message.additional_kwargs.get(key) for key in ("name", "tool_call_id")}
        new.update({key: value for key, value in told.items() if value})
    return new


def _append(message: EngineMessage, new: EngineMessage) -> None:
    parts = [part for part in (message["content"], new["content"]) if part]
    message["content"] = "\n\n".join(parts)
    if calls := [*message.get("tool_calls", ()), *new.get("tool_calls", ())]:
        message["tool_calls"] = calls


def _text(message: ChatMessage) -> str:
    """The text as `ChatMessage.content` has it; earlier reasoning is not part of a prompt."""
    for block in message.blocks:
        if not isinstance(block, TextBlock | ThinkingBlock | ToolCallBlock):
            raise GenerationError(
                "Expected messages of text, thinking and tool call blocks; this model reads text",
                f"found a block of type '{block.block_type}' in a {message.role.value} message",
                "Leave the block out, or describe it in text",
            )
    return message.content or ""


def _tool_calls(message: ChatMessage) -> list[EngineMessage]:
    blocks = [block for block in message.blocks if isinstance(block, ToolCallBlock)]
    if blocks:
        return [_call(block.tool_call_id, block.tool_name, block.tool_kwargs) for block in blocks]
    return list(_other_calls(message.additional_kwargs.get("tool_calls") or ()))


def _other_calls(calls: Iterable[Any]) -> Iterable[EngineMessage]:
    """Calls that another model's class left in `additional_kwargs`, in OpenAI's form."""
    for call in calls:
        function = call.get("function") if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or "name" not in function:
            raise GenerationError(
                "Expected tool calls as blocks, or in OpenAI's form in `additional_kwargs`",
                f"found {call!r:.200}",
                "Put a ToolCallBlock for each call into the message",
            )
        yield _call(call.get("id"), function["name"], function.get("arguments") or {})


def _call(call_id: str | None, name: str, arguments: Mapping[str, Any] | str) -> EngineMessage:
    function = {"name": name, "arguments": arguments}
    return {"id": call_id or "", "type": "function", "function": function}


def _with_tool_names(messages: Iterable[EngineMessage]) -> Iterable[EngineMessage]:
    """Gives a result that names no tool the name from the call that it answers."""
    names: dict[str | None, str] = {}
    for message in messages:
        names.update({c["id"]: c["function"]["name"] for c in message.get("tool_calls", ())})
        called = names.get(message.get("tool_call_id"))
        is_unnamed = message["role"] == "tool" and "name" not in message
        yield {**message, "name": called} if is_unnamed and called else message
