"""A scripted engine with the surface the chat model uses; what it was asked can be read back."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
from langchain_core.callbacks import BaseCallbackHandler

from lag_engine import Generation, Plan, StreamPiece, TokenLogprob, ToolCall, Usage
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
    kind: str = "knowledge"


class ScriptedLibrary:
    """Stands for an AdapterLibrary."""

    def __init__(self, *infos: ScriptedInfo) -> None:
        self.infos = list(infos)
        self.generation = 1
        self.fingerprint = "first"

    def list(self, kind: str | None = None) -> list[ScriptedInfo]:
        return self.infos


class ScriptedTokenizer:
    """Stands for a tokenizer: a token a word."""

    chat_template = "{{ tools }}{{ messages }}"

    def __call__(self, text: str, *, add_special_tokens: bool) -> dict[str, list[int]]:
        return {"input_ids": list(range(len(text.split())))}


class ScriptedEngine:
    """Answers `reply`, a word at a time, then calls; keeps every request in `calls`.

    Args:
        reply: the answer's text.
        tool_calls: come after the text, one piece each.
        reasoning: comes before the text.
        broken_tool_call: what is left of a call that was cut off.
        cut: whether the token limit ended the answer.
        fails_at: the piece at which it raises instead.
        seconds_per_piece: how long a piece takes.
    """

    def __init__(
        self,
        reply: str = "Paris is fine",
        *,
        tool_calls: Sequence[ToolCall] = (),
        reasoning: str = "",
        broken_tool_call: str = "",
        cut: bool = False,
        fails_at: int | None = None,
        seconds_per_piece: float = 0.0,
    ) -> None:
        self.reply = reply
        self.tool_calls = tuple(tool_calls)
        self.reasoning = reasoning
        self.broken_tool_call = broken_tool_call
        self.cut = cut
        self.fails_at = fails_at
        self.seconds_per_piece = seconds_per_piece
        self.library: ScriptedLibrary | None = ScriptedLibrary()
        self.name = "scripted"
        self.context_length = 1000
        self.supports_tools = True
        self.tokenizer = ScriptedTokenizer()
        self.calls: list[tuple[Any, dict[str, Any]]] = []
        self.batches: list[list[str]] = []
        self.n_pieces = 0
        self.n_running = 0
        self.most_running = 0
        self.ended = threading.Event()

    def plan(self, mode: str, **options: Any) -> Plan:
        return Plan.from_mode(mode, **options)

    def generate(self, messages: Any, **options: Any) -> Generation:
        return list(self.stream(messages, **options))[-1].generation

    def generate_batch(self, prompts: Any, *, plans: Plan, **options: Any) -> list[Generation]:
        self.batches.append(prompts)
        return [self.generate(prompt, plan=plans, **options) for prompt in prompts]

    def stream(self, messages: Any, **options: Any) -> Iterator[StreamPiece]:
        self.calls.append((messages, options))
        self.n_running += 1
        self.most_running = max(self.most_running, self.n_running)
        pieces = self._pieces()
        try:
            for index, piece in enumerate(pieces):
                if index == self.fails_at:
                    raise RuntimeError("the device is lost")
                time.sleep(self.seconds_per_piece)
                self.n_pieces += 1
                last = index == len(pieces) - 1
                generation = self._generation(messages, options) if last else None
                yield replace(piece, token_ids=(index,), generation=generation)
        finally:
            self.n_running -= 1
            self.ended.set()

    def tokenize_messages(
        self, messages: Any, tools: Sequence[dict[str, Any]] = ()
    ) -> tuple[int, ...]:
        texts = [messages] if isinstance(messages, str) else [m["content"] for m in messages]
        n_words = sum(len(text.split()) for text in texts)
        return tuple(range(n_words + 10 * len(tools or ())))

    def close(self) -> None:
        self.ended.set()

    def _pieces(self) -> list[StreamPiece]:
        words = self.reply.split(" ") if self.reply else []
        return [
            *([StreamPiece("", (), reasoning=self.reasoning)] if self.reasoning else []),
            *(StreamPiece(word if i == 0 else f" {word}", ()) for i, word in enumerate(words)),
            *(StreamPiece("", (), tool_calls=(call,)) for call in self.tool_calls),
            *([] if words or self.tool_calls else [StreamPiece("", ())]),
        ]

    def _generation(self, messages: Any, options: dict[str, Any]) -> Generation:
        prompt = self.tokenize_messages(messages, options.get("tools") or ())
        written = tuple(range(len(self._pieces())))
        top = options.get("logprobs")
        return Generation(
            text=self.reply,
            token_ids=written,
            finish_reason="length" if self.cut else "tool_calls" if self.tool_calls else "stop",
            usage=Usage(len(prompt), len(written)),
            plan=options["plan"],
            prompt_token_ids=prompt,
            trace=ScriptedTrace() if options["trace"] else None,
            tool_calls=self.tool_calls,
            broken_tool_call=self.broken_tool_call,
            reasoning=self.reasoning,
            logprobs=None if top is None else tuple(_likely(i, top) for i in written),
        )


def _likely(token_id: int, n_alternatives: int) -> TokenLogprob:
    alternatives = (TokenLogprob(i, f"t{i}", -1.0 - i) for i in range(n_alternatives))
    return TokenLogprob(token_id, f"t{token_id}", -0.5, tuple(alternatives))


class Record(BaseCallbackHandler):
    """Keeps what callbacks are told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, Any]] = []

    def on_llm_new_token(self, token: Any, **kwargs: Any) -> None:
        self.told.append(("token", token))

    def on_llm_end(self, response: Any, **kwargs: Any) -> None:
        self.told.append(("end", response))

    def on_llm_error(self, error: BaseException, **kwargs: Any) -> None:
        self.told.append(("error", error))

    def of(self, kind: str) -> list[Any]:
        return [value for name, value in self.told if name == kind]


@pytest.fixture
def record() -> type[Record]:
    return Record


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine()


@pytest.fixture
def make_engine():
    """The class of the scripted engine, for tests in files that import nothing from here."""
    return ScriptedEngine


@pytest.fixture
def make_llm():
    """Makes models on scripted engines; their names are free again after the test."""
    keys = []

    def make(engine: ScriptedEngine, kind: type = LAGChatModel, **arguments: Any) -> Any:
        llm = kind.from_engine(engine, name="scripted", **arguments)
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
