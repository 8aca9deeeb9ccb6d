"""A scripted engine with the surface the chat model uses; what it was asked can be read back."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest

from lag_engine import Generation, Plan, StreamPiece, Usage
from lag_integrations.engines import release_engine
from lag_integrations.langchain import LAGChatModel


class ScriptedTrace:
    """Stands for a RoutingTrace."""

    def summary(self) -> dict[str, Any]:
        return {"share": {"task": {"qa": 0.5}}}

    def to_dict(self) -> dict[str, Any]:
        return {"tokens": ["a"], "records": []}


class ScriptedInfo(NamedTuple):
    name: str
    sha256: str = "hash"
    document_id: str | None = None
    metadata: Any = MappingProxyType({})


class ScriptedLibrary:
    """Stands for an AdapterLibrary."""

    def __init__(self, *infos: ScriptedInfo) -> None:
        self.infos = list(infos)
        self.generation = 1
        self.fingerprint = "first"

    def list(self, kind: str | None = None) -> list[ScriptedInfo]:
        return self.infos


class ScriptedEngine:
    """Answers `reply`, a word at a time; keeps every request in `calls`."""

    def __init__(self, reply: str = "Paris is fine", *, seconds_per_piece: float = 0.0) -> None:
        self.reply = reply
        self.seconds_per_piece = seconds_per_piece
        self.library: ScriptedLibrary | None = ScriptedLibrary()
        self.calls: list[tuple[Any, dict[str, Any]]] = []
        self.n_pieces = 0
        self.ended = threading.Event()

    def plan(self, mode: str, **options: Any) -> Plan:
        return Plan.from_mode(mode, **options)

    def generate(self, messages: Any, **options: Any) -> Generation:
        return list(self.stream(messages, **options))[-1].generation

    def stream(self, messages: Any, **options: Any) -> Iterator[StreamPiece]:
        self.calls.append((messages, options))
        words = self.reply.split(" ")
        try:
            for index, word in enumerate(words):
                time.sleep(self.seconds_per_piece)
                self.n_pieces += 1
                text = word if index == 0 else f" {word}"
                last = index == len(words) - 1
                generation = self._generation(messages, options) if last else None
                yield StreamPiece(text, (index,), generation)
        finally:
            self.ended.set()

    def tokenize_messages(self, messages: Any) -> tuple[int, ...]:
        return tuple(range(sum(len(m["content"].split()) for m in messages)))

    def close(self) -> None:
        self.ended.set()

    def _generation(self, messages: Any, options: dict[str, Any]) -> Generation:
        prompt, written = self.tokenize_messages(messages), tuple(range(len(self.reply.split(" "))))
        return Generation(
            text=self.reply,
            token_ids=written,
            finish_reason="stop",
            usage=Usage(len(prompt), len(written)),
            plan=options["plan"],
            prompt_token_ids=prompt,
            trace=ScriptedTrace() if options["trace"] else None,
        )


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine()


@pytest.fixture
def make_llm():
    """Makes chat models on scripted engines; their names are free again after the test."""
    keys = []

    def make(engine: ScriptedEngine, **arguments: Any) -> LAGChatModel:
        llm = LAGChatModel.from_engine(engine, name="scripted", **arguments)
        keys.append(llm.engine_key)
        return llm

    yield make
    for key in keys:
        release_engine(key)


@pytest.fixture
def llm(engine, make_llm) -> LAGChatModel:
    return make_llm(engine)


@pytest.fixture
def slow_engine() -> ScriptedEngine:
    return ScriptedEngine(" ".join(["word"] * 200), seconds_per_piece=0.01)


@pytest.fixture
def scripted_library():
    """Makes a library of the given adapters, `(name, sha256, document_id)` each."""
    return lambda *infos: ScriptedLibrary(*(ScriptedInfo(*info) for info in infos))
