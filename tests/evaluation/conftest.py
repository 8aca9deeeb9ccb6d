"""A small suite about the documents of the random library on disk."""

from __future__ import annotations

import pytest

from lag_engine import LAGEngine
from lag_engine.evaluation import (
    BM25Retriever,
    EvaluationDocument,
    EvaluationQuestion,
    Experiment,
    Suite,
)

TEXTS = {
    "d0": "Rosa Sinclair is a nurse.",
    "d1": "Omar Vance is a pilot.",
    "d2": "Lena Moss is a baker.",
}


@pytest.fixture
def suite():
    """Six questions of two tasks; three documents with their adapters."""
    words = [text.split() for text in TEXTS.values()]
    questions = [
        EvaluationQuestion(
            f"{task}-{i}",
            f"What is {words[i][0]} {words[i][1]}?",
            (words[i][-1].strip("."),),
            data_set=f"set-{task}",
            task=task,
            evidence=((f"d{i}",),),
            task_adapter=task,
        )
        for task in ("qa", "slots")
        for i in range(3)
    ]
    documents = [
        EvaluationDocument(name, text, adapters={"prag": f"doc-{name[1]}"})
        for name, text in TEXTS.items()
    ]
    return Suite("three people", tuple(questions), tuple(documents))


@pytest.fixture(scope="session")
def engine(on_disk):
    with LAGEngine.from_pretrained(on_disk.model, library=on_disk.library) as opened:
        yield opened


@pytest.fixture
def experiment(engine, suite):
    """Builds an experiment of the suite with BM25."""

    def make(systems, **options):
        options.setdefault("retrievers", [BM25Retriever([d.text for d in suite.documents])])
        return Experiment(engine, options.pop("suite", suite), systems, **options)

    return make
