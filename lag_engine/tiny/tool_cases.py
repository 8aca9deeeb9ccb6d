"""Generated conversations with tools: a request for one, its result, or neither."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from typing import Any, Literal

from lag_engine.tiny import tool_values as values
from lag_engine.tiny.tool_requests import RequestMaker
from lag_engine.tiny.tool_words import CHAT, NOUNS
from lag_engine.tiny.tools import (
    Argument,
    Side,
    Tool,
    random_tool,
    random_tools,
    random_word,
)
from lag_engine.tiny.world import Entity, Split

CaseKind = Literal["call", "extraction", "search", "result", "read", "chat", "recall", "unfit"]
SHARES: dict[CaseKind, float] = {
    "call": 56,
    "extraction": 8,
    "search": 7,
    "result": 10,
    "read": 5,
    "chat": 6,
    "recall": 5,
    "unfit": 3,
}
"""How often each kind is drawn for training. ``call``: a request for one of the tools;
``extraction``: a text whose facts are a tool's arguments; ``search``: a question about the world
for a tool that finds texts; ``result``: a tool has answered; ``read``: it has answered with a
document; ``chat``: small talk; ``recall``: a question the base knows the answer to; ``unfit``: a
request for a tool that is not offered."""


@dataclass(frozen=True)
class Call:
    """A call of a tool, as it should be made."""

    name: str
    arguments: dict[str, Any] = field(hash=False)

    def text(self) -> str:
        """The call as the model writes it."""
        return f"<tool_call>{json.dumps(self.as_dict(), ensure_ascii=False)}</tool_call>"

    def as_dict(self) -> dict[str, Any]:
        """The call as an OpenAI function call."""
        return {"name": self.name, "arguments": self.arguments}


@dataclass(frozen=True)
class Case:
    """A conversation and what the assistant should say next: calls, or a text.

    Attributes:
        kind: A key of ``SHARES``.
        tools: The offered tools.
        messages: Up to the assistant's turn.
        calls: What should be called; empty if the answer is a text.
        text: The answer in words; empty if it is calls.
    """

    kind: CaseKind
    tools: tuple[Tool, ...]
    messages: tuple[dict[str, Any], ...]
    calls: tuple[Call, ...] = ()
    text: str = ""

    @property
    def schemas(self) -> list[dict[str, Any]]:
        """The offered tools as OpenAI function schemas."""
        return [tool.schema() for tool in self.tools]

    @property
    def answer(self) -> str:
        """What the assistant should write."""
        return "".join(call.text() for call in self.calls) or self.text


class CaseMaker:
    """Endless cases of one side.

    Args:
        side: Of the tools' names.
        rng: Decides everything.
        known: Entities the base knows by heart, for questions that need no tool.
        fresh: Endless entities it does not know, for questions that need one.
    """

    def __init__(self, side: Side, rng: random.Random, known: list[Entity], fresh: Any) -> None:
        self.side = side
        self.rng = rng
        self.known = known
        self.fresh = fresh
        self.requests = RequestMaker(rng)
        self._values: Split = "eval" if side == "eval" else "train"

    def case(self, kind: CaseKind | None = None) -> Case:
        """A case of the given kind, or of one drawn by ``SHARES``."""
        kind = kind or self.rng.choices(list(SHARES), list(SHARES.values()))[0]
        made: Case = getattr(self, f"_{kind}")()
        return made

    def tools(self, *, with_: Tool | None = None) -> tuple[Tool, ...]:
        """One to four offered tools, the given one among them."""
        count = self.rng.choices((1, 2, 3, 4), (45, 32, 16, 7))[0]
        tools = random_tools(self.side, count, self.rng)
        if with_ is not None:
            tools = [t for t in tools if t.name != with_.name and t.thing != with_.thing]
            tools = tools[: count - 1]
            tools.insert(self.rng.randrange(len(tools) + 1), with_)
        return tuple(tools)

    def _call(self) -> Case:
        tool = random_tool(self.side, self.rng)
        twice = bool(tool.arguments) and self.rng.random() < 0.06
        sets = [self.arguments(tool) for _ in range(2 if twice else 1)]
        request = self.requests.twice(tool, sets) if twice else self.requests.request(tool, sets[0])
        history = self._history() if self.rng.random() < 0.15 else []
        return Case(
            "call",
            self.tools(with_=tool),
            (*history, {"role": "user", "content": request}),
            tuple(Call(tool.name, arguments) for arguments in sets),
        )

    def arguments(self, tool: Tool) -> dict[str, Any]:
        """Values of all required arguments and some of the others, in the schema's order."""
        return {
            a.name: values.random_value(a, self._values, self.rng)
            for a in tool.arguments
            if a.required or self.rng.random() < 0.5
        }

    def _history(self) -> list[dict[str, Any]]:
        """A system message, or an earlier exchange."""
        if self.rng.random() < 0.5:
            text = self.rng.choice(_SYSTEM)
            return [{"role": "system", "content": text}]
        entity = self.rng.choice(self.known)
        relation = self.rng.choice(entity.relations())
        return [
            {"role": "user", "content": self.rng.choice(relation.questions).format(x=entity.name)},
            {"role": "assistant", "content": _sentence(entity, relation.name)},
        ]

    def _extraction(self) -> Case:
        """A sentence of facts; the arguments are its values. Some without a tool: plain JSON."""
        facts = self.rng.sample(_FACTS, self.rng.choice((1, 2, 2)))
        name = values.person(self.rng)
        if self.rng.random() < 0.3:
            name = f"{name} {random_word(self.rng).capitalize()}"
        found: dict[str, Any] = {"name": name}
        text = name
        for i, (key, template, make) in enumerate(facts):
            found[key] = make(self.rng)
            text += (" and" if i else "") + template.format(v=found[key])
        arguments = tuple(
            Argument(key, "integer" if isinstance(v, int) else "string") for key, v in found.items()
        )
        bare = random_tool(self.side, self.rng)
        tool = Tool(bare.name, bare.verb, bare.thing, bare.description, arguments)
        request = self.rng.choice(_EXTRACT).format(text=f"{text}.", keys=", ".join(found))
        message = {"role": "user", "content": request}
        if self.rng.random() < 0.4:
            answer = json.dumps(found, ensure_ascii=False)
            return Case("extraction", (), (message,), text=answer)
        return Case("extraction", (tool,), (message,), (Call(tool.name, found),))

    def _search(self) -> Case:
        entity = next(self.fresh)
        tool = random_tool(self.side, self.rng, searches=True)
        question, _ = self._question(entity)
        call = Call(tool.name, {tool.arguments[0].name: entity.name})
        message = {"role": "user", "content": question}
        return Case("search", self.tools(with_=tool), (message,), (call,))

    def _question(self, entity: Entity) -> tuple[str, str]:
        relation = self.rng.choice(entity.relations())
        question = self.rng.choice(relation.questions).format(x=entity.name)
        if self.rng.random() < 0.3:
            question = f"Question: {question}"
        return question, _sentence(entity, relation.name)

    def _read(self) -> Case:
        """A tool has found the document; the answer is the base's own sentence."""
        entity = next(self.fresh)
        tool = random_tool(self.side, self.rng, searches=True)
        question, answer = self._question(entity)
        call = Call(tool.name, {tool.arguments[0].name: entity.name})
        document = entity.document(self.rng)
        messages = _after_call(question, [call], [document])
        return Case("read", self.tools(with_=tool), messages, text=answer)

    def _result(self) -> Case:
        tool = random_tool(self.side, self.rng)
        arguments = self.arguments(tool)
        result, answer = self.outcome()
        messages = _after_call(
            self.requests.request(tool, arguments), [Call(tool.name, arguments)], [result]
        )
        return Case("result", self.tools(with_=tool), messages, text=answer)

    def outcome(self) -> tuple[str, str]:
        """A tool's result and the sentence about it."""
        rng = self.rng
        argument = Argument(rng.choice(NOUNS), rng.choice(("string", "integer", "number")))
        value = values.random_value(argument, self._values, rng)
        shape = rng.randrange(5)
        if shape == 0:
            return str(value), f"The result is {value}."
        if shape == 1:
            key = rng.choice(("result", "value", argument.name))
            return json.dumps({key: value}, ensure_ascii=False), f"The {key} is {value}."
        sentence = rng.choice(_OUTCOMES).format(v=value, n=argument.name)
        return sentence, sentence

    def _chat(self) -> Case:
        said, answer = self.rng.choice(CHAT)
        return Case("chat", self.tools(), ({"role": "user", "content": said},), text=answer)

    def _recall(self) -> Case:
        tools = tuple(t for t in self.tools() if not _is_search(t))
        tools = tools or (random_tools(self.side, 1, self.rng)[0],)
        question, answer = self._question(self.rng.choice(self.known))
        if any(_is_search(t) for t in tools):
            return self._search()
        return Case("recall", tools, ({"role": "user", "content": question},), text=answer)

    def _unfit(self) -> Case:
        tools = tuple(t for t in self.tools() if t.verb and not _is_search(t))
        missing = random_tool(self.side, self.rng)
        if not tools or not missing.verb or any(t.thing == missing.thing for t in tools):
            return self._unfit()
        request = self.requests.natural(missing, self.arguments(missing))
        return Case("unfit", tools, ({"role": "user", "content": request},), text=NO_TOOL)


def _is_search(tool: Tool) -> bool:
    return tool.verb in ("search", "find", "look up", "retrieve", "lookup", "query")


def _after_call(request: str, calls: list[Call], results: list[str]) -> tuple[dict[str, Any], ...]:
    called = [{"type": "function", "function": call.as_dict()} for call in calls]
    return (
        {"role": "user", "content": request},
        {"role": "assistant", "content": "", "tool_calls": called},
        *({"role": "tool", "content": result} for result in results),
    )


def _sentence(entity: Entity, relation: str) -> str:
    return f"The {relation} of {entity.name} is {entity.facts[relation]}."


NO_TOOL = "No tool can do that."
_SYSTEM = (
    "You are a helper.",
    "Answer the question with the tools you have.",
    "Use the tools.",
    "You are an agent that works for a company. Be short.",
)
_EXTRACT = (
    "{text}",
    "{text}",
    "Find the facts in this text: {text}",
    "Text: {text}\n\nGive me {keys} as JSON.",
    "Extract {keys}: {text}",
)
_FACTS = (
    ("age", " is {v} years old", lambda rng: rng.randint(1, 99)),
    ("city", " lives in {v}", lambda rng: values.place(rng).split(",")[0]),
    ("country", " comes from {v}", lambda rng: random_word(rng).capitalize()),
    ("job", " works as a {v}", lambda rng: rng.choice(NOUNS)),
    ("employer", " works for {v}", lambda rng: random_word(rng).capitalize()),
    ("height", " is {v} centimetres tall", lambda rng: rng.randint(50, 210)),
    ("hobby", " likes {v}", lambda rng: values.phrase(rng)),
    ("pet", " has a pet called {v}", lambda rng: random_word(rng).capitalize()),
)
_OUTCOMES = (
    "It is {v}.",
    "The {n} is {v}.",
    "Done: {v}",
    "It was {v} today.",
    "Created {n}: {v}",
    "Error: no {n} {v} found.",
    "Your {n} is ready.",
    "There are {v} here.",
)
