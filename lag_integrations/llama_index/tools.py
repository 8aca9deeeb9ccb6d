"""Tools on their way to the engine, and the model's calls on their way back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, ChatResponse, ToolCallBlock
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.tools import BaseTool

from lag_engine import GenerationError

ToolChoice = str | Mapping[str, Any] | None


def tool_schemas(tools: Sequence[BaseTool | Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The tools as OpenAI-style function schemas; such schemas pass through."""
    return [
        dict(tool)
        if isinstance(tool, Mapping)
        else tool.metadata.to_openai_tool(skip_length_check=True)
        for tool in tools
    ]


def tool_choice_of(choice: ToolChoice, *, is_required: bool) -> str:
    """The engine's form of a tool choice.

    Args:
        choice: "auto", "any" or "required", "none", a tool's name, OpenAI's mapping with one, or
            None, which leaves it to `is_required`.
        is_required: whether the answer must be a call.
    """
    if choice is None or choice == "auto":
        return "any" if is_required else "auto"
    if isinstance(choice, Mapping):
        function = choice.get("function", choice)
        if not isinstance(function, Mapping) or not function.get("name"):
            raise GenerationError(
                "Expected a tool choice such as {'type': 'function', 'function': {'name': ...}}",
                f"found {dict(choice)}",
                "Name the tool, or give 'auto', 'any' or 'none'",
            )
        return str(function["name"])
    return "any" if choice == "required" else choice


def tool_selections(message: ChatMessage) -> list[ToolSelection]:
    """The calls of the model's message."""
    return [
        ToolSelection(
            tool_id=block.tool_call_id or "",
            tool_name=block.tool_name,
            tool_kwargs=block.tool_kwargs if isinstance(block.tool_kwargs, dict) else {},
        )
        for block in message.blocks
        if isinstance(block, ToolCallBlock)
    ]


def no_tool_call(response: ChatResponse) -> GenerationError:
    """The error of an answer that should call a tool and does not."""
    raw = response.raw or {}
    return GenerationError(
        "Expected an answer that calls a tool",
        f"found {raw.get('broken_tool_call') or response.message.content!r:.200}, ended by "
        f"{raw.get('finish_reason')!r}",
        "Pass `tool_required=True`, or more `max_tokens` if the call was cut",
    )
