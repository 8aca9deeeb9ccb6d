"""A scripted engine with the surface that the LLM uses; what it was asked can be read back."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from llama_index.core import Document, StorageContext, VectorStoreIndex

from lag_engine import Generation, Plan, StreamPiece, Usage, tiny
from lag_integrations.chroma import close_client, open_client
from lag_integrations.engines import release_engine
from lag_integrations.llama_index import LAGLLM, LocalEmbedding
from lag_integrations.llama_index.chroma import open_vector_store

pytest.register_assert_rewrite("tests.llama_index.conformance")


@pytest.fixture(scope="package", autouse=True)
def event_loop_of_the_thread():
    """LlamaIndex's synchronous calls make a loop where there is none, and never close it."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield
    asyncio.set_event_loop(None)
    loop.close()


class ScriptedTrace:
    """Stands for a RoutingTrace."""

    def summary(self) -> dict[str, Any]:
        return {"share": {"task": {"qa": 0.5}}}

    def to_dict(self) -> dict[str, Any]:
        return {"tokens": ["a"], "decisions": []}


class ScriptedTokenizer:
    """Counts words."""

    chat_template = "{{ messages }} {{ tools }}"

    def __call__(self, text: str, **options: Any) -> dict[str, list[int]]:
        return {"input_ids": list(range(len(text.split())))}


class ScriptedLibrary:
    """Stands for an AdapterLibrary; `infos` are its adapters."""

    def __init__(self, *infos: Any) -> None:
        self.infos = list(infos)
        self.generation = 1

    def list(self, kind: str | None = None) -> list[Any]:
        return self.infos


class ScriptedEngine:
    """Answers its replies in turn, a word at a time; the last one stays.

    A reply is a text, or a `Generation`'s fields as a dict: `text`, `tool_calls`, `reasoning`, ...
    An exception is raised after the first word.
    """

    def __init__(self, *replies: Any, seconds_per_piece: float = 0.0) -> None:
        self.replies = list(replies) or ["Paris is fine"]
        self.seconds_per_piece = seconds_per_piece
        self.library: ScriptedLibrary | None = None
        self.tokenizer = ScriptedTokenizer()
        self.context_length = 1024
        self.supports_tools = True
        self.calls: list[tuple[Any, dict[str, Any]]] = []
        self.n_pieces = 0
        self.ended = threading.Event()

    def plan(self, mode: str, **options: Any) -> Plan:
        return Plan.from_mode(mode, **options)

    def generate(self, prompt: Any, **options: Any) -> Generation:
        return list(self.stream(prompt, **options))[-1].generation

    def stream(self, prompt: Any, **options: Any) -> Iterator[StreamPiece]:
        self.calls.append((prompt, options))
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        return self._pieces(prompt, reply, options)

    def _pieces(self, prompt: Any, reply: Any, options: dict[str, Any]) -> Iterator[StreamPiece]:
        error = reply if isinstance(reply, BaseException) else None
        fields = {"text": "one two"} if error else reply if isinstance(reply, dict) else {}
        fields = {"text": reply if isinstance(reply, str) else "", **fields}
        generation = self._generation(prompt, fields, options)
        try:
            if generation.reasoning:
                yield StreamPiece("", (), reasoning=generation.reasoning)
            for index, word in enumerate(generation.text.split(" ")):
                time.sleep(self.seconds_per_piece)
                self.n_pieces += 1
                yield StreamPiece(word if index == 0 else f" {word}", (index,))
                if error:
                    raise error
            for call in generation.tool_calls:
                yield StreamPiece("", (), tool_calls=(call,))
            yield StreamPiece("", (99,), generation)
        finally:
            self.ended.set()

    def _generation(
        self, prompt: Any, fields: dict[str, Any], options: dict[str, Any]
    ) -> Generation:
        text = prompt if isinstance(prompt, str) else " ".join(m["content"] for m in prompt)
        read, written = range(len(text.split())), range(len(fields["text"].split()))
        plain = Generation(
            text="",
            token_ids=tuple(written),
            finish_reason="stop",
            usage=Usage(len(read), len(written)),
            plan=options["plan"],
            prompt_token_ids=tuple(read),
            trace=ScriptedTrace() if options["trace"] else None,
        )
        return dataclasses.replace(plain, **fields)

    def close(self) -> None:
        self.ended.set()

    @property
    def prompt(self) -> Any:
        """The last prompt it was given."""
        return self.calls[-1][0]

    @property
    def options(self) -> dict[str, Any]:
        """The options of the last call."""
        return self.calls[-1][1]


@pytest.fixture
def scripted():
    """Makes scripted engines."""
    return ScriptedEngine


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine()


@pytest.fixture
def slow_engine() -> ScriptedEngine:
    return ScriptedEngine(" ".join(["word"] * 200), seconds_per_piece=0.01)


@pytest.fixture
def make_llm():
    """Makes LLMs on engines; their names are free again after the test."""
    keys = []

    def make(engine: Any, *, name: str = "scripted", **arguments: Any) -> LAGLLM:
        llm = LAGLLM.from_engine(engine, name=name, **arguments)
        keys.append(llm.engine_key)
        return llm

    yield make
    for key in keys:
        release_engine(key)


@pytest.fixture
def llm(engine, make_llm) -> LAGLLM:
    return make_llm(engine)


@pytest.fixture
def make_library():
    """A library of adapters given as (name, document_id, revision)."""

    def make(*adapters: tuple[str, str | None, str | None]) -> ScriptedLibrary:
        infos = [
            SimpleNamespace(
                name=name,
                kind="knowledge",
                document_id=document,
                sha256=f"sha-{name}",
                metadata={"revision": revision} if revision else {},
            )
            for name, document, revision in adapters
        ]
        return ScriptedLibrary(*infos)

    return make


@pytest.fixture(scope="session")
def tiny_llm() -> LAGLLM:
    """The shipped model; greedy, short answers."""
    return LAGLLM(model="lag-tiny", max_tokens=24)


@pytest.fixture(scope="session")
def tiny_index(tmp_path_factory):
    """The shipped documents in a Chroma collection on disk, by the shipped embedding model."""
    folder = tmp_path_factory.mktemp("chroma")
    embedding = LocalEmbedding(tiny.embedder_path())
    store = open_vector_store(open_client(folder), "lag-tiny", embedding=embedding.embedding_model)
    hidden = ["title"]
    documents = [
        Document(
            doc_id=d.id,
            text=d.text,
            metadata={"title": d.title},
            excluded_llm_metadata_keys=hidden,
            excluded_embed_metadata_keys=hidden,
        )
        for d in tiny.documents()
    ]
    context = StorageContext.from_defaults(vector_store=store)
    yield VectorStoreIndex.from_documents(documents, storage_context=context, embed_model=embedding)
    close_client(folder)


@pytest.fixture
def json_able():
    """Whether a value survives JSON as it is."""
    return lambda value: json.loads(json.dumps(value)) == value
