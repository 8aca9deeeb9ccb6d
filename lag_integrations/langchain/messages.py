"""LangChain's messages as the role and content pairs that a chat template reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.messages import BaseMessage, ChatMessage

from lag_engine import GenerationError

ROLES = {"system": "system", "human": "user", "ai": "assistant"}


def to_engine_messages(messages: Sequence[BaseMessage]) -> list[dict[str, str]]:
    """The conversation as `{"role", "content"}` pairs that any chat template takes.

    Neighbours of the same role become one message, parted by an empty line, because many templates
    refuse repeated roles. System messages that come later are kept where they stand.

    Raises:
        GenerationError: a message is of a type or has a content block that the model cannot read.
    """
    if not messages:
        raise GenerationError("Expected at least one message", "got none", "Send a user message")
    merged: list[dict[str, str]] = []
    for message in messages:
        role, content = _role(message), _text(message)
        if merged and merged[-1]["role"] == role:
            merged[-1]["content"] += f"\n\n{content}"
        else:
            merged.append({"role": role, "content": content})
    return merged


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
    if kind in ("reasoning", "thinking"):  # an earlier answer's reasoning is not part of the prompt
        return ""
    raise GenerationError(
        "Expected message content of text blocks; this model reads text only",
        f"found a block of type {kind!r} in a message of type '{message_type}'",
        "Leave the block out, or describe it in text",
    )
