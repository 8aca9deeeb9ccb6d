"""One retrieval program: on a stock model class, with RAG+LAG, and with PRAG+LAG."""

from __future__ import annotations

import difflib
from itertools import islice
from pathlib import Path

import pytest
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

from lag_engine import tiny
from tests.llama_index.programs import prag_lag, rag_lag, stock

PROGRAMS = {"stock": stock, "rag_lag": rag_lag, "prag_lag": prag_lag}
DOCUMENTS = {d.id: d for d in tiny.documents()}


def questions():
    """Five of each task, each about another document."""
    for task in ("fact_checking", "slot_filling", "open_qa", "entity_linking", "dialogue"):
        yield from islice((q for q in tiny.questions() if q.task == task), 10, 60, 10)


QUESTIONS = list(questions())


class Handed(BaseRetriever):
    """Finds the document of the question, or another of the same kind."""

    def __init__(self, *, is_right):
        self.is_right = is_right
        super().__init__()

    def _retrieve(self, query_bundle: QueryBundle):
        right = DOCUMENTS[
            next(q.document_id for q in QUESTIONS if q.prompt == query_bundle.query_str)
        ]
        kind = [d for d in DOCUMENTS.values() if d.kind == right.kind]
        found = right if self.is_right else kind[kind.index(right) - 1]
        return [NodeWithScore(node=TextNode(id_=found.id, text=found.text), score=1.0)]


@pytest.fixture(scope="module")
def engines(tiny_index):
    """Each program's query engine."""
    path = str(tiny.model_path())
    return {
        name: program.make_query_engine(tiny_index, path if name == "stock" else "lag-tiny")
        for name, program in PROGRAMS.items()
    }


@pytest.fixture(scope="module")
def n_right(engines):
    """How many questions a program answers to the letter, with its own or with handed documents."""

    def count(name, *, retriever=None):
        engine = engines[name]
        if retriever is not None:
            engine = RetrieverQueryEngine(retriever, engine._response_synthesizer)
        answers = [str(engine.query(question.prompt)).strip() for question in QUESTIONS]
        return sum(a == q.answer for a, q in zip(answers, QUESTIONS, strict=True))

    return count


@pytest.mark.parametrize(("before", "after"), [("stock", "rag_lag"), ("rag_lag", "prag_lag")])
def test_switching_takes_two_lines(before, after):
    lines = [Path(PROGRAMS[name].__file__).read_text().split("\n") for name in (before, after)]
    lines = [[line for line in file if line] for file in lines]
    changes = [line for line in difflib.ndiff(*lines) if line[0] in "+-"]
    assert sum(line[0] == "+" for line in changes) == 2
    assert sum(line[0] == "-" for line in changes) == 2


def test_answers_improve_from_stock_to_rag_lag_and_prag_lag(n_right):
    counts = {name: n_right(name) for name in PROGRAMS}
    assert len(QUESTIONS) >= 20
    assert counts["stock"] <= 0.3 * len(QUESTIONS), counts
    assert counts["rag_lag"] >= 0.6 * len(QUESTIONS), counts
    assert counts["prag_lag"] >= 0.6 * len(QUESTIONS), counts


@pytest.mark.parametrize("name", ["rag_lag", "prag_lag"])
def test_answers_come_from_the_document_not_from_anywhere(n_right, name):
    right = n_right(name, retriever=Handed(is_right=True))
    wrong = n_right(name, retriever=Handed(is_right=False))
    assert right >= 0.7 * len(QUESTIONS)
    assert wrong <= 0.3 * len(QUESTIONS)


async def test_the_programs_answer_in_async_too(engines):
    question = QUESTIONS[5].prompt
    for engine in engines.values():
        assert str(await engine.aquery(question)) == str(engine.query(question))
