"""From OpenAI's messages, tools and formats to what the engine reads."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lag_engine.errors import GenerationError

if TYPE_CHECKING:
    from lag_engine.model.guided import Guide
    from lag_engine.serving.schemas import ChatRequest

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}
_TOOL_CHOICES = {"auto": "auto", "none": "none", "required": "any"}


def to_engine_messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The conversation as the engine reads it.

    Raises:
        GenerationError: a message has an unknown role, content that is not text, or arguments of a
            tool call that are not a JSON object.
    """
    return [_message(message, f"messages[{i}]") for i, message in enumerate(messages)]


def chat_options(request: ChatRequest) -> dict[str, Any]:
    """The engine's options for tools and guided answers.

    Raises:
        GenerationError: a tool, the tool choice or the response format cannot be understood.
    """
    options: dict[str, Any] = {}
    if request.tools:
        options["tools"] = [_tool(tool, i) for i, tool in enumerate(request.tools)]
        if request.parallel_tool_calls is not None:
            options["parallel_tool_calls"] = request.parallel_tool_calls
    if request.tools and request.tool_choice is not None:
        options["tool_choice"] = _tool_choice(request.tool_choice)
    elif request.tool_choice not in (None, "none", "auto"):
        raise _refused("tools", "where `tool_choice` asks for a call", "none", "tool_choice")
    guide = _guide(request.response_format or {"type": "text"})
    if guide is not None:
        options["guide"] = guide
    if request.logprobs:
        options["logprobs"] = request.top_logprobs or 0
    return options


def _message(message: Mapping[str, Any], where: str) -> dict[str, Any]:
    role = message.get("role")
    if role not in ROLES:
        raise _refused(f"a role among {', '.join(ROLES)}", f"in {where}", repr(role), where)
    converted: dict[str, Any] = {
        "role": ROLES[role],
        "content": _text(message.get("content"), where),
    }
    if message.get("name"):
        converted["name"] = message["name"]
    if message.get("tool_calls"):
        calls = enumerate(message["tool_calls"])
        converted["tool_calls"] = [
            _tool_call(call, f"{where}.tool_calls[{i}]") for i, call in calls
        ]
    if message.get("tool_call_id"):
        converted["tool_call_id"] = message["tool_call_id"]
    return converted


def _text(content: Any, where: str) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise _refused("text or a list of parts", f"in {where}.content", _kind(content), where)
    return "".join(_part(part, where) for part in content)


def _part(part: Any, where: str) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else _kind(part)
    if kind == "refusal":
        return str(part["refusal"])
    if kind != "text" or not isinstance(part.get("text"), str):
        raise _refused(
            "parts of type 'text'; the model reads text only", f"in {where}", kind, where
        )
    return str(part["text"])


def _tool_call(call: Any, where: str) -> dict[str, Any]:
    try:
        function = call["function"]
        arguments = json.loads(function["arguments"] or "{}")
        name = str(function["name"])
    except (KeyError, TypeError, ValueError) as error:
        raise _refused(
            "a function call with a name and arguments in JSON", f"in {where}", repr(error), where
        ) from error
    if not isinstance(arguments, dict):
        raise _refused("arguments that are a JSON object", f"in {where}", _kind(arguments), where)
    function = {"name": name, "arguments": arguments}
    return {"id": call.get("id", ""), "type": "function", "function": function}


def _tool(tool: Mapping[str, Any], index: int) -> dict[str, Any]:
    where = f"tools[{index}]"
    function = tool.get("function")
    if tool.get("type") != "function" or not isinstance(function, Mapping):
        raise _refused("tools of type 'function'", f"in {where}", repr(tool.get("type")), where)
    return {"type": "function", "function": dict(function)}


def _tool_choice(choice: str | Mapping[str, Any]) -> str:
    if isinstance(choice, str) and choice in _TOOL_CHOICES:
        return _TOOL_CHOICES[choice]
    function = choice.get("function") if isinstance(choice, Mapping) else None
    if isinstance(function, Mapping) and isinstance(function.get("name"), str):
        return str(function["name"])
    raise _refused(
        "'auto', 'none', 'required' or {'type': 'function', 'function': {'name': ...}}",
        "as `tool_choice`",
        repr(choice),
        "tool_choice",
    )


def _guide(response_format: Mapping[str, Any]) -> Guide | None:
    from lag_engine.model.guided import Guide

    kind = response_format.get("type")
    if kind == "text":
        return None
    if kind == "json_object":
        return Guide.json_object()
    given = response_format.get("json_schema")
    schema = given.get("schema") if isinstance(given, Mapping) else None
    if kind == "json_schema" and isinstance(schema, Mapping):
        return Guide.json_schema(schema)
    raise _refused(
        "the type 'text', 'json_object' or 'json_schema' with a `json_schema.schema`",
        "as `response_format`",
        f"{response_format!r:.100}",
        "response_format",
    )


def _kind(value: Any) -> str:
    return type(value).__name__


def _refused(expected: str, place: str, found: object, field: str) -> GenerationError:
    return GenerationError(f"Expected {expected} {place}", f"found {found}", f"correct `{field}`")
