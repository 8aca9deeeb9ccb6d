"""Encoders at work on the tiny world's passages: what each makes, takes and answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, TypeVar

from lag_engine.adapters import AdapterLibrary
from lag_engine.documents import (
    PRAG,
    DyPRAG,
    DyPRAGSettings,
    Passage,
    PolyPRAG,
    PolyPRAGSettings,
    PRAGSettings,
    Translator,
    train_translator,
)
from lag_engine.documents.dyprag_files import WEIGHTS, save_translator
from lag_engine.model.engine import LAGEngine
from lag_engine.model.loading import TINY
from lag_engine.tiny.encoder_cases import Case
from lag_engine.tiny.shipped import model_path

T = TypeVar("T")

BATCH = 40
MAX_NEW_TOKENS = 24

TARGETS = ("gate_proj", "up_proj")
"""Without down_proj: its updates reach the base's copy heads, and at these rates upset them."""

PRAG_SETTINGS = PRAGSettings(learning_rate=3e-3, epochs=8, targets=TARGETS, questions="alone")
PAPER_SETTINGS = replace(PRAG_SETTINGS, questions="after text")
LATENT_SETTINGS = PolyPRAGSettings(
    learning_rate=3e-3, epochs=16, targets=TARGETS, questions="alone"
)
TRANSLATOR_SETTINGS = DyPRAGSettings(
    learning_rate=1e-3, epochs=40, step_passages=16, questions="alone"
)
"""Chosen on the dev split. The papers' rates are for models a thousand times as large."""


class Encoded(NamedTuple):
    """What an encoder made of some passages.

    Attributes:
        names: Of the passages' adapters, in their order.
        mode: In which they are applied.
        n_bytes: Stored for each passage, a share of what they have in common included.
        shared_bytes: Of what they have in common.
        seconds: Of encoding, for each passage; CPU time.
    """

    names: tuple[str, ...]
    mode: str
    n_bytes: float
    shared_bytes: int
    seconds: float


class Answered(NamedTuple):
    """Exact match of each document's questions, and what a question took; CPU time."""

    scores: list[float]
    seconds: float


@contextmanager
def fresh_engine() -> Iterator[LAGEngine]:
    """The tiny model over an empty library that is open for writing."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "library"
        library = AdapterLibrary.create(path, base_model=model_path(), base_name=TINY)
        with library, LAGEngine.from_pretrained(TINY, library=library) as engine:
            yield engine


def encode_prag(
    engine: LAGEngine, passages: Sequence[Passage], settings: PRAGSettings = PRAG_SETTINGS
) -> Encoded:
    """An adapter for each passage."""
    encoder = PRAG.from_engine(engine, settings=settings, progress=False)
    infos, seconds = _timed(lambda: encoder.encode(passages))
    n_bytes = sum(info.n_bytes for info in infos) / len(infos)
    return Encoded(tuple(i.name for i in infos), "prag", n_bytes, 0, seconds / len(passages))


def encode_polyprag(
    engine: LAGEngine, passages: Sequence[Passage], settings: PolyPRAGSettings = LATENT_SETTINGS
) -> Encoded:
    """A mixture of latent adapters for each passage."""
    encoder = PolyPRAG.from_engine(engine, settings=settings, progress=False)
    infos, seconds = _timed(lambda: encoder.encode(passages))
    shared = sum(info.n_bytes for info in encoder.library.list("latent"))
    own = sum(info.n_bytes for info in infos) / len(infos)
    names = tuple(info.name for info in infos)
    n = len(passages)
    return Encoded(names, "polyprag", own + shared / n, shared, seconds / n)


def train_dyprag(
    engine: LAGEngine, passages: Sequence[Passage], settings: DyPRAGSettings
) -> tuple[Translator, float]:
    """A translator that has learnt from the passages' PRAG adapters, and its seconds in all."""
    taught = replace(PRAG_SETTINGS, shared_start=True)
    encode = PRAG.from_engine(engine, settings=taught, progress=False).encode
    library: Any = engine.library

    def train() -> Translator:
        encode(passages)
        return engine.lend(
            lambda model: train_translator(
                model, engine.tokenizer, library, passages, settings=settings, progress=False
            )
        )

    return _timed(train)


def translator_bytes(translator: Translator) -> int:
    """What it takes on disk."""
    with TemporaryDirectory() as folder:
        save_translator(translator, folder)
        return (Path(folder) / WEIGHTS).stat().st_size


@contextmanager
def generated(
    engine: LAGEngine, translator: Translator, passages: Sequence[Passage]
) -> Iterator[Encoded]:
    """The passages' adapters for as long as the context lasts; nothing is stored for a passage."""
    maker = DyPRAG(engine, translator)
    adapters, seconds = _timed(lambda: maker.adapters(passages))
    with engine.generated(adapters) as names:
        shared = translator_bytes(translator)
        yield Encoded(names, "dyprag", shared / len(passages), shared, seconds / len(passages))


def answer(
    engine: LAGEngine, cases: Sequence[Case], mode: str, names: Sequence[str] | None
) -> Answered:
    """Asks each document's questions under the adapter of that name; None: under none."""
    asked = [
        (place, question, gold)
        for place, case in enumerate(cases)
        for question, gold in case.questions
    ]
    prompts = [[{"role": "user", "content": question}] for _, question, _ in asked]
    plans = [
        engine.plan(mode, adapters=None if names is None else [names[place]])
        for place, _, _ in asked
    ]

    def ask() -> list[str]:
        answers = []
        for start in range(0, len(asked), BATCH):
            part = slice(start, start + BATCH)
            answers += engine.generate_batch(
                prompts[part], plans=plans[part], max_new_tokens=MAX_NEW_TOKENS
            )
        return [generation.text.strip() for generation in answers]

    texts, seconds = _timed(ask)
    hits: list[list[float]] = [[] for _ in cases]
    for (place, _, gold), text in zip(asked, texts, strict=True):
        hits[place].append(float(text == gold))
    return Answered([sum(row) / len(row) for row in hits], seconds / len(asked))


def _timed(work: Callable[[], T]) -> tuple[T, float]:
    started = time.process_time()
    result = work()
    return result, time.process_time() - started
