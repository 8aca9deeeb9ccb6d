"""Tools and the choice among them: from LangChain's many forms to the engine's one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool

from lag_engine import GenerationError

ToolLike = Mapping[str, Any] | type | Callable[..., Any] | BaseTool
ToolChoice = str | bool | Mapping[str, Any]

CHOICES = {
    "auto": "auto",
    "any": "any",
    "required": "any",
    True: "any",
    "none": "none",
    False: "none",
}
"""How a caller says it: how the engine does. Anything else is a tool's name."""


def to_tools(tools: Sequence[ToolLike], *, strict: bool | None = None) -> list[dict[str, Any]]:
    """Function schemas of the tools, each with parameters.

    Args:
        tools: functions, LangChain tools, pydantic or TypedDict classes, JSON schemas, or the
            dictionaries of other providers.
        strict: True closes the schemas: arguments have the named properties and no others.

    Raises:
        GenerationError: a tool is one that only its provider could run.
    """
    return [_to_tool(tool, strict) for tool in tools]


def to_tool_choice(choice: ToolChoice | None, tools: Sequence[Mapping[str, Any]]) -> str:
    """The choice as "auto", "any", "none" or a tool's name.

    Args:
        choice: "auto", "any", "required", "none", a boolean, a tool's name, or a dictionary as
            OpenAI or Anthropic have it; None is "auto".
        tools: from `to_tools`.

    Raises:
        GenerationError: no tool has that name, or the dictionary is of another form.
    """
    if choice is None:
        return "auto"
    said = _said(choice) if isinstance(choice, Mapping) else choice
    names = [tool["function"]["name"] for tool in tools]
    if said in names:
        return str(said)
    if said not in CHOICES:
        raise GenerationError(
            "Expected tool_choice 'auto', 'any', 'none' or the name of one of the tools "
            f"({', '.join(names)})",
            f"found {choice!r}",
            "Bind the tool as well, or choose one that is bound",
        )
    return CHOICES[said]


def _to_tool(tool: ToolLike, strict: bool | None) -> dict[str, Any]:
    converted = convert_to_openai_tool(tool, strict=strict)
    function = converted.get("function")
    if converted.get("type") != "function" or not isinstance(function, dict):
        raise GenerationError(
            "Expected tools that the caller runs: functions, with a name and parameters",
            f"found one of type {converted.get('type')!r}",
            "Leave out tools that only run at their provider",
        )
    parameters = function.get("parameters") or {"type": "object", "properties": {}}
    return {"type": "function", "function": {**function, "parameters": parameters}}


def _said(choice: Mapping[str, Any]) -> Any:
    """OpenAI: {"type": "function", "function": {"name"}}; Anthropic: {"type": "tool", "name"}."""
    function = choice.get("function")
    name = function.get("name") if isinstance(function, Mapping) else choice.get("name")
    return name or choice.get("type")
