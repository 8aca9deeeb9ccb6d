"""Requests for a tool, as programmers and other people word them."""

from __future__ import annotations

import random
from typing import Any

from lag_engine.tiny import tool_values as values
from lag_engine.tiny.tools import Argument, Tool


class RequestMaker:
    """Endless requests.

    Args:
        rng: Decides everything.
    """

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    def request(self, tool: Tool, arguments: dict[str, Any]) -> str:
        """A request for the tool that says every argument, in one of several styles."""
        styles = [self._notation, self._named]
        if tool.verb:
            styles += [self.natural, self.natural, self.natural]
        return self._politely(self.rng.choice(styles)(tool, arguments))

    def _politely(self, request: str) -> str:
        before = self.rng.choice(("", "", "", "Hi! ", "Please ", "Can you ", "I want you to "))
        if request.split(" ")[0] in ("What", "I", "Tell") or "(" in request.split(" ")[0]:
            before = ""
        if before and before != "Hi! ":
            request = request[:1].lower() + request[1:]
        after = (
            "",
            "",
            "",
            " Please.",
            " Please use a tool.",
            " Thanks!",
            " You have a tool for it.",
        )
        return before + request + self.rng.choice(after)

    def _notation(self, tool: Tool, arguments: dict[str, Any]) -> str:
        """As a programmer writes it: name(1, "two") or name(x=1)."""
        named = self.rng.random() < 0.3
        parts = [
            (f"{name}=" if named else "")
            + (values.quoted(v, self.rng) if isinstance(v, str) else values.spoken(v, self.rng))
            for name, v in arguments.items()
        ]
        return self.rng.choice(_NOTATION).format(call=f"{tool.name}({', '.join(parts)})")

    def twice(self, tool: Tool, sets: list[dict[str, Any]]) -> str:
        """One request for two calls."""
        described = [self._pairs(tool, arguments, self.rng.randrange(4)) for arguments in sets]
        return f"{self._head(tool)} with {described[0]} and again with {described[1]}."

    def _named(self, tool: Tool, arguments: dict[str, Any]) -> str:
        """Every value with its argument's name."""
        head = self._head(tool)
        if not arguments:
            return f"{head}."
        described = self._pairs(tool, arguments, self.rng.randrange(4))
        joint = self.rng.choice((" with ", " with ", ": ", " where ", ", "))
        return f"{head}{joint}{described}."

    def _pairs(self, tool: Tool, arguments: dict[str, Any], style: int) -> str:
        by_name = {a.name: a for a in tool.arguments}
        form = ("{n} {v}", "{n}: {v}", "{n} = {v}", "the {n} {v}")[style]
        parts = [
            form.format(n=by_name[name].words, v=values.spoken(v, self.rng))
            for name, v in arguments.items()
        ]
        return (", " if style in (1, 2) else self.rng.choice((" and ", ", "))).join(parts)

    def _head(self, tool: Tool) -> str:
        if not tool.verb or self.rng.random() < 0.25:
            return self.rng.choice(("Call {n}", "Use {n}", "Run {n}", "Apply {n}")).format(
                n=tool.name
            )
        article = self.rng.choice(("the", "a", "my", ""))
        return f"{tool.verb.capitalize()} {article} {tool.thing}".replace("  ", " ")

    def natural(self, tool: Tool, arguments: dict[str, Any]) -> str:
        """As people say it: values in order, each after a small word that suits it."""
        by_name = {a.name: a for a in tool.arguments}
        parts = [self._part(by_name[name], value) for name, value in arguments.items()]
        asks = tool.verb in ("get", "show", "find", "read", "compute", "check", "track", "fetch")
        if asks and self.rng.random() < 0.7:
            head = self.rng.choice(("What is the {t}", "Tell me the {t}", "I need the {t}"))
            end = "?" if head.startswith("What") else "."
            return f"{head.format(t=tool.thing)}{''.join(parts)}{end}"
        return f"{self._head(tool)}{''.join(parts)}{self.rng.choice(('.', '.', '', '!'))}"

    def _part(self, argument: Argument, value: Any) -> str:
        said = values.spoken(value, self.rng)
        name = argument.name
        if isinstance(value, bool):
            return f" with {argument.words} {said}"
        if argument.type == "choice":
            return self.rng.choice((f" in {said}", f" with {argument.words} {said}", f" as {said}"))
        if not isinstance(value, str):
            return self.rng.choice((f" for {said}", f" of {said}", f" with {said}", f" {said}"))
        if name.endswith(("name", "title", "label", "model", "subject")) or not value.isascii():
            gloss = f" ({values.phrase(self.rng)})" if self.rng.random() < 0.3 else ""
            shown = values.quoted(value, self.rng) if self.rng.random() < 0.6 else said
            return self.rng.choice((" named {s}", " called {s}", " {s}")).format(s=shown) + gloss
        if name.endswith(("details", "text", "summary", "comment", "message", "reason")):
            return self.rng.choice((" - {s}", ": {s}", " saying {s}", " with {s}")).format(s=said)
        return self.rng.choice((" in {s}", " for {s}", " of {s}", " at {s}", " to {s}")).format(
            s=said
        )


_NOTATION = (
    "What is {call}?",
    "What does {call} give?",
    "Compute {call}.",
    "Call {call}",
    "What is the result of {call}?",
    "Run {call} and tell me the answer.",
    "{call}",
    "I need {call}.",
    "Find out what {call} is.",
)
