"""Generated tools: names, descriptions and arguments from word lists and random letters.

A tool's name belongs to one of three sides, so that what is trained on, chosen by and evaluated on
share no name (see ``side_of``). Argument names are common nouns and are shared.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal
from zlib import crc32

from lag_engine.tiny.tool_words import (
    ADJECTIVES,
    FLAGS,
    FRACTIONS,
    NOUNS,
    TEXTS,
    UNITS,
    VERBS,
    WHOLES,
)

Side = Literal["train", "dev", "eval"]
_SIDES: tuple[Side, ...] = ("eval", "dev", "train", "train", "train", "train", "train", "train")
ArgumentType = Literal["string", "integer", "number", "boolean", "choice"]


@dataclass(frozen=True)
class Argument:
    """One argument of a tool.

    Attributes:
        name: In snake case.
        type: "choice" is a string out of ``choices``.
        required: Whether every call has it.
        choices: The values of a choice.
    """

    name: str
    type: ArgumentType
    required: bool = True
    choices: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """The name as a request says it."""
        return self.name.replace("_", " ")

    def schema(self) -> dict[str, Any]:
        """The argument as JSON schema."""
        if self.type == "choice":
            return {"type": "string", "enum": list(self.choices)}
        return {"type": self.type}


@dataclass(frozen=True)
class Tool:
    """A generated tool.

    Attributes:
        name: Unique to one side.
        verb: What it does, or "" for a tool whose name is made of random letters.
        thing: What it does it to.
        description: One line, or "".
        arguments: In the order of its schema.
    """

    name: str
    verb: str
    thing: str
    description: str
    arguments: tuple[Argument, ...]

    def schema(self) -> dict[str, Any]:
        """The tool as an OpenAI function schema."""
        parameters = {
            "type": "object",
            "properties": {a.name: a.schema() for a in self.arguments},
            "required": [a.name for a in self.arguments if a.required],
        }
        function = {
            "name": self.name,
            "description": self.description,
            "parameters": parameters,
        }
        return {"type": "function", "function": function}


def side_of(name: str) -> Side:
    """The side a tool's name belongs to; a hash of the name decides."""
    return _SIDES[crc32(name.encode()) % len(_SIDES)]


def random_tool(side: Side, rng: random.Random, *, searches: bool = False) -> Tool:
    """A random tool whose name is of the given side; ``searches`` makes one that finds text."""
    while True:
        name, verb, thing = _searching(rng) if searches else rng.choice(_NAMERS)(rng)
        if side_of(name) == side:
            break
    if searches:
        argument = rng.choice(("query", "question", "text", "topic", "keywords", "q"))
        arguments: tuple[Argument, ...] = (Argument(argument, "string"),)
    else:
        arguments = _random_arguments(rng)
    return Tool(name, verb, thing, _describe(verb, thing, rng), arguments)


def random_tools(side: Side, count: int, rng: random.Random) -> list[Tool]:
    """Tools with distinct names, verbs and things."""
    tools: list[Tool] = []
    while len(tools) < count:
        tool = random_tool(side, rng, searches=rng.random() < 0.08)
        if not any(t.name == tool.name or t.thing == tool.thing for t in tools):
            tools.append(tool)
    return tools


def random_word(rng: random.Random, syllables: int = 0) -> str:
    """A pronounceable word of random letters."""
    starts, middles, ends = (
        "b c d f g h j k l m n p r s t v w z bl br ch cr dr fl gr kl pr sh st tr",
        "a e i o u ai ea ee io ou",
        " n r s l m t ck nd st x",
    )
    count = syllables or rng.choice((1, 2, 2, 3))
    word = "".join(rng.choice(starts.split()) + rng.choice(middles.split()) for _ in range(count))
    return word + rng.choice(ends.split(" "))


def _verb_noun(rng: random.Random) -> tuple[str, str, str]:
    verb, thing = rng.choice(VERBS), rng.choice(NOUNS)
    if rng.random() < 0.3:
        thing = f"{rng.choice(ADJECTIVES)} {thing}"
    name = f"{verb}_{thing.replace(' ', '_')}"
    if rng.random() < 0.15:
        name = verb + "".join(part.capitalize() for part in thing.split())
    return name, verb, thing


def _noun_phrase(rng: random.Random) -> tuple[str, str, str]:
    thing = f"{rng.choice(ADJECTIVES + NOUNS)} {rng.choice(NOUNS)}"
    return thing.replace(" ", "_") + rng.choice(("", "", "_tool", "_function")), "get", thing


def _invented(rng: random.Random) -> tuple[str, str, str]:
    parts = [random_word(rng) for _ in range(rng.choice((1, 1, 2)))]
    suffix = rng.choice(("", "", "", f"_{rng.choice(NOUNS)}", f"_{rng.randrange(10)}"))
    return "_".join(parts) + suffix, "", " ".join(parts)


def _searching(rng: random.Random) -> tuple[str, str, str]:
    verb = rng.choice(("search", "find", "look_up", "retrieve", "lookup", "query"))
    thing = rng.choice(("documents", "texts", "notes", "archive", "articles", "facts", "pages"))
    extra = rng.choice(("", "", f"_{rng.choice(NOUNS)}", f"{rng.choice(ADJECTIVES)}_"))
    name = f"{verb}_{extra}{thing}" if extra.endswith("_") else f"{verb}_{thing}{extra}"
    return name, verb.replace("_", " "), thing


_NAMERS: tuple[Callable[[random.Random], tuple[str, str, str]], ...] = (
    _verb_noun,
    _verb_noun,
    _verb_noun,
    _noun_phrase,
    _invented,
)


def _describe(verb: str, thing: str, rng: random.Random) -> str:
    """One line about the tool; some tools have none."""
    action = verb or rng.choice(("apply", "use", "run", "compute", "call"))
    noun = rng.choice(NOUNS)
    return rng.choice(
        (
            "",
            "",
            f"{action.capitalize()} a {thing}.",
            f"{action.capitalize()} {thing}.",
            f"{action.capitalize()} the {thing}.",
            f"{action.capitalize()} the {thing} of a {noun}.",
            f"Tool to {action} a {thing}.",
            f"{action.capitalize()} {thing} for the {noun}",
            f"Use this to {action} the {rng.choice(ADJECTIVES)} {thing} of the {noun}.",
        )
    )


def _random_arguments(rng: random.Random) -> tuple[Argument, ...]:
    count = rng.choices((0, 1, 2, 3), (10, 50, 30, 10))[0]
    arguments: dict[str, Argument] = {}
    while len(arguments) < count:
        argument = _random_argument(rng)
        arguments.setdefault(argument.name, argument)
    # A call leaves out what the request does not say; that comes last, as in Python.
    return tuple(sorted(arguments.values(), key=lambda a: not a.required))


def _random_argument(rng: random.Random) -> Argument:
    kinds: tuple[ArgumentType, ...] = ("string", "integer", "number", "boolean", "choice")
    kind = rng.choices(kinds, (52, 25, 7, 5, 11))[0]
    required = rng.random() < 0.85
    if kind == "choice":
        name = rng.choice(list(UNITS))
        return Argument(name, kind, required, rng.choice(UNITS[name]))
    lists = {"string": TEXTS, "integer": WHOLES, "number": FRACTIONS, "boolean": FLAGS}
    name = rng.choice(lists[kind])
    if kind == "string" and rng.random() < 0.25:
        name = f"{rng.choice(NOUNS)}_{name}"
    if rng.random() < 0.1:
        name = random_word(rng)
    return Argument(name, kind, required)
