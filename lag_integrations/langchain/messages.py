"""LangChain's messages as the dictionaries that a chat template reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, ChatMessage, ToolMessage

from lag_engine import GenerationError

EngineMessage = dict[str, Any]

ROLES = {"system": "system", "human": "user", "ai": "assistant", "tool": "tool"}
CALL_BLOCKS = ("tool_use", "tool_call", "tool_call_chunk", "invalid_tool_call", "function_call")
"""Blocks that repeat a message's calls, which are read from `tool_calls`."""

REASONING_BLOCKS = ("reasoning", "thinking", "redacted_thinking")
"""Blocks of an earlier answer's reasoning, which is not part of the prompt."""


def to_engine_messages(messages: Sequence[BaseMessage]) -> list[EngineMessage]:
    """The conversation in a form that any chat template takes.

    Neighbours of the same role become one message, parted by an empty line, because many templates
    refuse repeated roles; their names, if these differ, are written before their texts. A tool's
    result stays a message of its own. System messages that come later are kept where they stand.

    Raises:
        GenerationError: a message is of a type or has a content block that the model cannot read.
    """
    if not messages:
        raise GenerationError("Expected at least one message", "got none", "Send a user message")
    merged: list[EngineMessage] = []
    for message in _with_tool_names([_to_engine(message) for message in messages]):
        if merged and merged[-1]["role"] == message["role"] != "tool":
            merged[-1] = _joined(merged[-1], message)
        else:
            merged.append(message)
    return merged


def speaks_of_tools(messages: Sequence[EngineMessage]) -> bool:
    """Whether the conversation holds a call or a tool's result."""
    return any(m["role"] == "tool" or "tool_calls" in m for m in messages)


def _to_engine(message: BaseMessage) -> EngineMessage:
    converted: EngineMessage = {"role": _role(message), "content": _text(message)}
    if message.name:
        converted["name"] = message.name
    if isinstance(message, ToolMessage):
        converted["tool_call_id"] = message.tool_call_id
        if message.status == "error" and not converted["content"].lower().startswith("error"):
            converted["content"] = f"Error: {converted['content']}"
    elif isinstance(message, AIMessage):
        converted["content"] += "".join(call["args"] or "" for call in message.invalid_tool_calls)
        if calls := [_call(*parts) for parts in _calls(message)]:
            converted["tool_calls"] = calls
    return converted


def _calls(message: AIMessage) -> Iterator[tuple[str | None, str, dict[str, Any]]]:
    """Id, name and arguments of each call."""
    if message.tool_calls:
        for call in message.tool_calls:
            yield call["id"], call["name"], call["args"]
        return
    for block in message.content:  # of another provider, whose calls were not taken out
        if isinstance(block, dict) and block.get("type") == "tool_use":
            yield block.get("id"), block["name"], block["input"]


def _call(id_: str | None, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return {"id": id_, "type": "function", "function": {"name": name, "arguments": arguments}}


def _with_tool_names(messages: list[EngineMessage]) -> Iterator[EngineMessage]:
    """Gives a result that names no tool the name from the call that it answers."""
    names: dict[str | None, str] = {}
    for message in messages:
        for call in message.get("tool_calls", ()):
            names[call["id"]] = call["function"]["name"]
        called = names.get(message.get("tool_call_id"))
        unnamed = message["role"] == "tool" and "name" not in message
        yield {**message, "name": called} if unnamed and called else message


def _joined(first: EngineMessage, second: EngineMessage) -> EngineMessage:
    joined = {**first, **second}
    calls = [*first.get("tool_calls", ()), *second.get("tool_calls", ())]
    if calls:
        joined["tool_calls"] = calls
    texts = [first["content"], second["content"]]
    if first.get("name") != second.get("name"):
        texts = [
            f"{m['name']}: {m['content']}" if m.get("name") else m["content"]
            for m in (first, second)
        ]
        joined.pop("name")
    joined["content"] = "\n\n".join(text for text in texts if text)
    return joined


def _role(message: BaseMessage) -> str:
    if isinstance(message, ChatMessage):
        return message.role
    kind = message.type.removesuffix("MessageChunk").lower()
    if kind not in ROLES:
        raise GenerationError(
            f"Expected messages of the types {', '.join(ROLES)} or a ChatMessage with a role",
            f"found one of type '{message.type}'",
            "Convert it to one of these before calling the model",
        )
    return ROLES[kind]


def _text(message: BaseMessage) -> str:
    if isinstance(message.content, str):
        return message.content
    return "".join(_block_text(block, message.type) for block in message.content)


def _block_text(block: str | dict[str, Any], message_type: str) -> str:
    if isinstance(block, str):
        return block
    kind = block.get("type")
    if kind == "text":
        return str(block["text"])
    if kind in REASONING_BLOCKS or kind in CALL_BLOCKS:
        return ""
    raise GenerationError(
        "Expected message content of text blocks; this model reads text only",
        f"found a block of type {kind!r} in a message of type '{message_type}'",
        "Leave the block out, or describe it in text",
    )
