"""What a model wrote, taken apart as it streams: text, reasoning and tool calls.

transformers has a parser for this (`tokenizer.get_response_parser`), which ends a call at its
closing marker wherever that stands: an argument that holds `</tool_call>` breaks it. Calls are
guided here, so they are JSON for certain, and end where the JSON does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from lag_engine.model.text import overlap

if TYPE_CHECKING:
    from collections.abc import Callable

    from lag_engine.model.tools import ToolCall, ToolFormat

BARE_CALL = '{"name"'
"""How a call begins that has no opener."""


class ThinkMarkers(NamedTuple):
    """What a model writes around its reasoning."""

    opener: str
    closer: str


THINK_MARKERS = (ThinkMarkers("<think>", "</think>"), ThinkMarkers("[THINK]", "[/THINK]"))


@dataclass(frozen=True)
class ReplyFormat:
    """What an answer may hold besides text.

    Args:
        calls: how tool calls are written; None where none may come.
        think: the markers of reasoning; None where none may come.
        is_thinking: whether the prompt has already opened the reasoning.
        skips_space: whether text begins with a space that belongs to the tokenizer, not to it.
        hidden_ids: special tokens without text; None for all of them. Those that mark a part of
            the answer have text.
    """

    calls: ToolFormat | None = None
    think: ThinkMarkers | None = None
    is_thinking: bool = False
    skips_space: bool = False
    hidden_ids: frozenset[int] | None = None


class Delta(NamedTuple):
    """The parts of an answer that became certain since the last ones."""

    text: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()

    def __bool__(self) -> bool:
        """Whether there is anything in it."""
        return bool(self.text or self.reasoning or self.tool_calls)

    def then(self, other: Delta) -> Delta:
        """Both, one after the other."""
        return Delta(
            self.text + other.text,
            self.reasoning + other.reasoning,
            self.tool_calls + other.tool_calls,
        )


NOTHING = Delta()


class ReplySplitter:
    """Takes one answer apart; the parts do not depend on how its text was cut into pieces.

    White space around calls and around reasoning is markup. A call comes when it is whole.

    Args:
        reply: what to expect.
    """

    def __init__(self, reply: ReplyFormat) -> None:
        self._calls_format = reply.calls
        self._think = reply.think
        self._held = ""
        self._skips_space = reply.skips_space
        self._strips = False
        self._calls = CallReader(reply.calls) if reply.calls else None
        self._read: Callable[[bool], Delta] = self._read_text
        if reply.is_thinking:
            self._begin_reasoning()
        elif reply.think:
            self._read = self._read_beginning
        elif reply.calls and not reply.calls.opener:
            self._read = self._read_bare_beginning

    @property
    def broken_call(self) -> str:
        """What there is of a call that has not ended, its opener included."""
        return self._calls.broken if self._calls else ""

    def feed(self, piece: str) -> Delta:
        """The parts that became certain with this piece of the answer."""
        self._held += piece
        return self._run(is_last=False)

    def flush(self) -> Delta:
        """The parts that are left at the end of the answer."""
        return self._run(is_last=True)

    def _run(self, *, is_last: bool) -> Delta:
        delta, state = NOTHING, None
        while state != (self._read, self._held):
            state = (self._read, self._held)
            delta = delta.then(self._read(is_last))
        return delta

    def _read_beginning(self, is_last: bool) -> Delta:
        """Until it is certain whether the answer begins with reasoning."""
        assert self._think is not None
        body = self._held.lstrip()
        if body.startswith(self._think.opener):
            self._held = body[len(self._think.opener) :]
            self._begin_reasoning()
        elif is_last or not self._think.opener.startswith(body):
            self._begin_answer()
        return NOTHING

    def _begin_reasoning(self) -> None:
        self._read = self._read_reasoning
        self._strips = True

    def _read_reasoning(self, is_last: bool) -> Delta:
        assert self._think is not None
        closer = self._think.closer
        at = self._held.find(closer)
        if at >= 0:
            reasoning = self._stripped(self._held[:at].rstrip())
            self._held = self._held[at + len(closer) :]
            self._strips = True
            self._begin_answer()
        else:
            reasoning = self._stripped(self._release(closer, is_last))
        return Delta(reasoning=reasoning)

    def _begin_answer(self) -> None:
        is_bare = self._calls_format is not None and not self._calls_format.opener
        self._read = self._read_bare_beginning if is_bare else self._read_text

    def _read_bare_beginning(self, is_last: bool) -> Delta:
        """Until it is certain whether the answer begins with a call that has no opener."""
        assert self._calls_format is not None
        body = self._held.lstrip()
        openings = (self._calls_format.tag, BARE_CALL)
        if any(body.startswith(opening) for opening in openings):
            self._held = body
            self._read = self._read_calls
        elif is_last or not any(opening.startswith(body) for opening in openings):
            self._read = self._read_text
        return NOTHING

    def _read_text(self, is_last: bool) -> Delta:
        opener = self._calls_format.opener if self._calls_format else ""
        at = self._held.find(opener) if opener else -1
        if at >= 0:
            text, self._held = self._held[:at].rstrip(), self._held[at:]
            self._read = self._read_calls
        elif opener:
            text = self._release(opener, is_last)
        else:
            text, self._held = self._held, ""
        text = self._stripped(text)
        if self._skips_space and text:
            text = text.removeprefix(" ")
            self._skips_space = False
        return Delta(text)

    def _read_calls(self, is_last: bool) -> Delta:
        del is_last
        assert self._calls is not None
        calls = self._calls.feed(self._held)
        self._held = ""
        return Delta(tool_calls=calls)

    def _release(self, marker: str, is_last: bool) -> str:
        """The held text but what may begin the marker, and the white space before that."""
        if is_last:
            released, self._held = self._held, ""
            return released
        released = self._held[: len(self._held) - overlap(self._held, marker)].rstrip()
        self._held = self._held[len(released) :]
        return released

    def _stripped(self, text: str) -> str:
        """Without the white space at the beginning of a part that follows markup."""
        if self._strips:
            text = text.lstrip()
            self._strips = not text
        return text


class CallReader:
    """Reads calls from the first opener on; what stands between their objects is markup.

    Args:
        known: how they are written.
    """

    def __init__(self, known: ToolFormat) -> None:
        self._known = known
        self._raw = ""
        self._depth = 0
        self._is_string = False
        self._is_escaped = False
        self._has_call = False

    @property
    def broken(self) -> str:
        """What there is of a call that has not ended, its opener included."""
        if not self._depth and self._has_call:
            return ""
        opener = self._known.opener
        return self._raw[max(self._raw.find(opener), 0) :].lstrip(" \n,;")

    def feed(self, text: str) -> tuple[ToolCall, ...]:
        """The calls that became whole."""
        calls = []
        for character in text:
            self._raw += character
            if self._ends_object(character):
                calls.append(self._known.call_of(self._raw[self._raw.index("{") :]))
                self._has_call, self._raw = True, ""
        return tuple(calls)

    def _ends_object(self, character: str) -> bool:
        """Follows strings and braces; whether this brace closes the outermost."""
        if self._is_string:
            self._is_string = self._is_escaped or character != '"'
            self._is_escaped = character == "\\" and not self._is_escaped
        elif character == '"':
            self._is_string = self._depth > 0
        elif character == "{":
            self._depth += 1
        elif character == "}":
            self._depth -= 1
            return self._depth == 0
        return False
