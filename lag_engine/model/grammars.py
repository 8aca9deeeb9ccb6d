"""Lark grammars of whole answers: reasoning, text and tool calls around what a guide asks for.

The dialect is llguidance's. A marker that is one token of the tokenizer is named by its id, since
special tokens are never matched as text; any other is spelled. Text before a spelled marker is
lazy: it ends at the first one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from lag_engine.model.guided import JSON_LAYOUT, Guide, quoted

if TYPE_CHECKING:
    from lag_engine.model.reply import ReplyFormat
    from lag_engine.model.tools import ToolUse

MAX_CALLS = 16
"""Of one answer: a small model would go on calling until its context ends."""

_COMMON = ["ANY: /(.|\\n)*/", "SPACE: /[ \\n]/"]


def answer_grammar(reply: ReplyFormat, tokens: Mapping[str, int], *, space: str) -> str:
    """The grammar of an answer around `@guide`.

    Args:
        reply: what stands before the answer's text.
        tokens: the ids of markers that are tokens of their own.
        space: comes before what the guide matches; "" if nothing does.
    """
    first = f"{quoted(space)} " if space else ""
    if reply.think is None:
        return f"start: {first}@guide"
    rules = _until("thought", reply.think.closer, tokens)
    thought = "thought SPACE? SPACE?"
    if not reply.is_thinking:
        rules += _led("opening", reply.think.opener, tokens)
        thought = f"(opening {thought})?"
    return "\n".join([f"start: {thought} {first}@guide", *rules, *_COMMON])


def calls_guide(use: ToolUse, reply: ReplyFormat, tokens: Mapping[str, int]) -> Guide:
    """The guide of an answer with tools: a call, or text, or text and then a call.

    Text is free until it holds the opener. From there on names are those offered, arguments follow
    their schemas, and nothing comes after the last permitted call.

    Args:
        use: what may be called.
        reply: how the answer is read; its think markers are not part of text.
        tokens: the ids of markers that are tokens of their own.
    """
    known = use.format
    objects = [f"object_{i}" for i in range(len(use.tools))]
    rules = [f"object: {' | '.join(objects)}", f"SEPARATOR: /{known.separator}/"]
    for i, tool in enumerate(use.tools):
        head = f'{{"name": {json.dumps(tool.name)}, "{known.arguments_key}": '
        schema = json.dumps({**tool.parameters, "x-guidance": JSON_LAYOUT})
        rules += [f'object_{i}: HEAD_{i} arguments_{i} "}}"', f"arguments_{i}: %json {schema}"]
        # One lexeme, so that it can compete with text that begins alike.
        rules += [f"HEAD_{i}: /[ \\n]?/ {quoted(head)}"]
    if known.opener:
        rules += _marked_calls(use, tokens)
    else:
        rules += _bare_calls(use, tokens)
    if not use.is_required:
        rules += _text(use, reply)
    return Guide("grammar", "\n".join([*rules, *_COMMON]))


def _marked_calls(use: ToolUse, tokens: Mapping[str, int]) -> list[str]:
    """Calls behind an opener, in text or alone."""
    known = use.format
    opener = _reference(known.opener, tokens)
    if known.is_list:
        calls = f'SPACE? "[" object{_more("object", use)} "]"'
    else:
        call = f"object SPACE? {_reference(known.closer, tokens)}" if known.closer else "object"
        calls = call + _more(f"{opener} {call}", use)
    if use.is_required:
        return [f"start: SPACE? {opener} {calls}"]
    return [f"start: TEXT | opening {calls}", *_until("opening", known.opener, tokens)]


def _bare_calls(use: ToolUse, tokens: Mapping[str, int]) -> list[str]:
    """Calls that begin the answer."""
    tag = f"{_reference(use.format.tag, tokens)}? " if use.format.tag in tokens else ""
    calls = f"{tag}object{_more('object', use)}"
    return [f"start: {calls}"] if use.is_required else [f"start: TEXT | {calls}"]


def _more(call: str, use: ToolUse) -> str:
    return f" (SEPARATOR {call}){{0,{MAX_CALLS - 1}}}" if use.is_parallel else ""


def _text(use: ToolUse, reply: ReplyFormat) -> list[str]:
    """Text that holds no marker, and does not begin like a bare call."""
    markers = [marker for marker in use.format.markers if marker != use.format.closer]
    if reply.think is not None:
        markers.append(reply.think.opener)
    marked = [f"ANY {quoted(marker)} ANY" for marker in markers]
    if not use.format.opener:
        marked.append('/[ \\n]?/ "{\\"name\\"" ANY')
    return ["TEXT: ANY & ~MARKED", f"MARKED: {' | '.join(marked)}"]


def _until(name: str, marker: str, tokens: Mapping[str, int]) -> list[str]:
    """A rule for text and the marker that ends it."""
    if marker not in tokens:
        return [f"{name}[lazy]: ANY {quoted(marker)}"]
    upper = name.upper()
    return [
        f"{name}: {upper} {_reference(marker, tokens)}",
        f"{upper}: ANY & ~{upper}_MARKED",
        f"{upper}_MARKED: ANY {quoted(marker)} ANY",
    ]


def _led(name: str, marker: str, tokens: Mapping[str, int]) -> list[str]:
    """A rule for the marker behind at most one white space."""
    if marker in tokens:
        return [f"{name}: SPACE? {_reference(marker, tokens)}"]
    return [f"{name}[lazy]: /[ \\n]?/ {quoted(marker)}"]


def _reference(marker: str, tokens: Mapping[str, int]) -> str:
    return f"<[{tokens[marker]}]>" if marker in tokens else quoted(marker)
