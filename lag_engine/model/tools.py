"""Tools in a conversation: how a model's template writes calls, and which an answer may make."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from lag_engine.errors import GenerationError
from lag_engine.model.schemas import prepared

Render = Callable[[list[dict[str, Any]], list[dict[str, Any]] | None], str]
"""Writes out a conversation with tools, by a chat template; raises whatever the template does."""


def new_call_id() -> str:
    """An id that no other call has."""
    return f"call_{uuid.uuid4().hex[:24]}"


@dataclass(frozen=True)
class ToolCall:
    """One call that the model asks for.

    Args:
        name: of one of the offered tools.
        arguments: as the tool's schema has them.
        id: the call's own, to be given with its result.
    """

    name: str
    arguments: dict[str, Any]
    id: str = field(default_factory=new_call_id)


@dataclass(frozen=True)
class ToolFormat:
    """How a family of models writes calls: `opener`, a JSON object or a list of them, `closer`.

    Args:
        family: whose format it is.
        opener: comes before a call; "" if an answer that begins with an object is a call.
        closer: comes after it; may be "".
        arguments_key: of the arguments in the object, beside "name".
        is_list: whether one opener leads a JSON list of all calls.
        separator: a pattern of what stands between two calls.
        tag: may come before a call that has no opener.
    """

    family: Literal["hermes", "llama", "mistral"]
    opener: str
    closer: str = ""
    arguments_key: str = "arguments"
    is_list: bool = False
    separator: str = r"[ \n]?"
    tag: str = ""

    @property
    def markers(self) -> tuple[str, ...]:
        """What is never part of an answer's text."""
        return tuple(marker for marker in (self.opener, self.closer, self.tag) if marker)

    def call_of(self, written: str) -> ToolCall:
        """The call that a JSON object stands for."""
        call = json.loads(written)
        return ToolCall(call["name"], _paired(call[self.arguments_key]))


def _paired(value: Any) -> Any:
    """The value with strings that can be encoded: half of a surrogate pair becomes U+FFFD."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {_paired(key): _paired(part) for key, part in value.items()}
    return [_paired(part) for part in value] if isinstance(value, list) else value


HERMES = ToolFormat("hermes", "<tool_call>", "</tool_call>")
LLAMA = ToolFormat(
    "llama", "", arguments_key="parameters", separator=r";[ \n]?", tag="<|python_tag|>"
)
MISTRAL = ToolFormat("mistral", "[TOOL_CALLS]", is_list=True, separator=", ")

_CALL_ID = "probecall"
_ARGUMENTS = {"probe_key": "probe_value"}
_TOOL = {
    "type": "function",
    "function": {
        "name": "probe_tool",
        "description": "A probe.",
        "parameters": {"type": "object", "properties": {"probe_key": {"type": "string"}}},
    },
}
_CALL = {
    "id": _CALL_ID,
    "type": "function",
    "function": {"name": "probe_tool", "arguments": _ARGUMENTS},
}


def detect_tool_format(render: Render) -> ToolFormat | None:
    """The format in which a chat template writes calls; None if unknown, or it takes no tools.

    A call is rendered and read back, so that what the template does counts, not what it looks like.
    """
    asked = {"role": "user", "content": "A question."}
    try:
        offered = render([asked], [_TOOL])
        called = render(
            [asked, {"role": "assistant", "content": "", "tool_calls": [_CALL]}], [_TOOL]
        )
    except Exception:  # a template is a program: it raises whatever it likes
        return None
    if "probe_tool" not in offered:
        return None
    return next((known for known in (HERMES, MISTRAL, LLAMA) if _writes(known, called)), None)


def _writes(known: ToolFormat, rendered: str) -> bool:
    """Whether the probe's call stands in the text, in this format."""
    before = re.escape(known.opener) + r"\s*" + (r"\[\s*" if known.is_list else "")
    for match in re.finditer(before + r"(?=\{)", rendered):
        try:
            written, end = json.JSONDecoder().raw_decode(rendered, match.end())
        except ValueError:
            continue
        if (
            written.get("name") == "probe_tool"
            and written.get(known.arguments_key) == _ARGUMENTS
            and rendered[end:].lstrip().startswith(known.closer)
        ):
            return True
    return False


class Tool(NamedTuple):
    """One offered tool.

    Args:
        name: what calls say.
        parameters: the JSON schema of the arguments.
    """

    name: str
    parameters: Mapping[str, Any]


def read_tools(tools: Sequence[Mapping[str, Any]]) -> tuple[Tool, ...]:
    """The tools of a request.

    Raises:
        GenerationError: one is not of the form {"type": "function", "function": {"name": ...}}, or
            two have one name.
    """
    read = tuple(_read_tool(tool) for tool in tools)
    names = [tool.name for tool in read]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise GenerationError(
            "Expected each tool to have a name of its own",
            f"found {', '.join(map(repr, twice))} more than once",
            "rename or drop one of them",
        )
    return read


def _read_tool(tool: object) -> Tool:
    function = tool.get("function") if isinstance(tool, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    parameters = function.get("parameters") if isinstance(function, Mapping) else None
    if not isinstance(name, str) or not name or not isinstance(parameters, Mapping | None):
        raise GenerationError(
            'Expected tools like {"type": "function", "function": {"name", "parameters"}}',
            f"got {tool!r:.200}",
            "convert it, in LangChain with `convert_to_openai_tool`",
        )
    return Tool(name, prepared(parameters or {"type": "object", "properties": {}}))


class ToolUse(NamedTuple):
    """What one answer may call.

    Args:
        format: how calls are written.
        tools: those that may be called.
        is_required: whether the answer is a call, and not text.
        is_parallel: whether it may make several.
    """

    format: ToolFormat
    tools: tuple[Tool, ...]
    is_required: bool
    is_parallel: bool

    @classmethod
    def of(
        cls, known: ToolFormat, tools: tuple[Tool, ...], *, choice: str, is_parallel: bool
    ) -> ToolUse:
        """The use for a `tool_choice` other than "none"; a tool's name asks for one call of it.

        Raises:
            GenerationError: the choice is neither "auto" nor "any" nor an offered tool.
        """
        if choice in ("auto", "any"):
            return cls(known, tools, choice == "any", is_parallel)
        chosen = tuple(tool for tool in tools if tool.name == choice)
        if not chosen:
            raise GenerationError(
                "Expected `tool_choice` to be 'auto', 'any', 'none' or the name of a tool",
                f"got {choice!r}, and the tools are {', '.join(tool.name for tool in tools)}",
                "choose one of them",
            )
        return cls(known, chosen, is_required=True, is_parallel=False)
