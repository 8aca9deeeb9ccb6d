from __future__ import annotations

import io

import pytest
from langchain_core.messages import AIMessage
from rich.console import Console

from lag_engine import tiny
from lag_integrations.langchain.demo import MODES, Answer, pick_questions
from lag_integrations.langchain.demo_report import print_answers, print_scores
from lag_integrations.modes import documents_of


def answer(question, mode, text, slots=None):
    metadata = {"lag_routing": {"mode": mode, "slots": slots or {}}}
    return Answer(question, mode, AIMessage(text, response_metadata=metadata), 0.5)


@pytest.fixture
def question():
    return tiny.TinyQuestion("open_qa", "Question: Who?", "Rosa", "d0", "open_qa")


@pytest.fixture
def console():
    return Console(file=io.StringIO(), width=110)


def test_every_demo_mode_exists():
    assert all(documents_of(mode) for mode in MODES)


def test_questions_are_of_each_task_and_of_different_documents():
    picked = list(pick_questions(2))
    assert len(picked) == 2 * len({q.task for q in picked}) == 10
    assert len({q.document_id for q in picked}) == 10


def test_the_table_shows_question_gold_answers_adapters_and_seconds(question, console):
    slots = {"task": {"adapters": [{"adapter": "open_qa", "share": 0.75}]}}
    print_answers([answer(question, "lag", "Rosa", slots)], console)
    table = console.file.getvalue()
    shown = ("Question: Who?", "gold: Rosa", "lag", "open_qa 75%", "0.50")
    assert all(text in table for text in shown)


def test_scores_count_answers_that_are_right_to_the_letter(question, console):
    answers = [answer(question, "lag", "Rosa "), answer(question, "lag", "rosa")]
    print_scores(answers, ["lag"], console)
    assert "1/2" in console.file.getvalue()
