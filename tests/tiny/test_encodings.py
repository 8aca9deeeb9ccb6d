"""What the evaluation documents are encoded from, and that a stage is made whole and once."""

from __future__ import annotations

import pytest

from lag_engine import AdapterLibrary
from lag_engine.cli import every_system
from lag_engine.tiny.encodings import Encodings
from lag_engine.tiny.shipped import questions
from lag_engine.tiny.task_passages import ASKED


@pytest.fixture(scope="module")
def encodings(tmp_path_factory):
    return Encodings(tmp_path_factory.mktemp("encodings"), count=8)


def test_passages_ask_for_every_fact_as_the_tasks_do(encodings):
    for passage in encodings.passages:
        assert len(passage.pairs) == 4 * len(ASKED)
        for pair in passage.pairs:
            *_, value = pair.answer.removesuffix(".").split(" is ", 1)
            assert value in passage.text or pair.answer == f"The text is about {passage.title}."


def test_the_answers_are_sentences_and_not_what_is_scored(encodings):
    scored = {question.answer for question in questions("eval")}
    assert not scored & {pair.answer for p in encodings.passages for pair in p.pairs}


def test_shuffled_passages_keep_text_and_questions_and_no_answer(encodings):
    for passage, other in zip(encodings.passages, encodings.shuffled_passages, strict=True):
        assert passage.text == other.text
        for pair, wrong in zip(passage.pairs, other.pairs, strict=True):
            assert pair.question == wrong.question
            assert pair.answer != wrong.answer


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_a_stage_is_made_once(tmp_path):
    made = Encodings(tmp_path, count=1)
    made.plain()
    with AdapterLibrary.open(tmp_path / "plain", read_only=True) as library:
        (info,) = library.list("knowledge")
        assert info.document_id == made.passages[0].id
    made.plain()
    assert [path.name for path in tmp_path.iterdir()] == ["plain"]


def test_the_one_command_evaluates_every_part_in_all_controls(tmp_path, monkeypatch):
    made, told = [], []
    monkeypatch.setattr(every_system.Encodings, "make", lambda self: made.append(self))
    monkeypatch.setattr(every_system, "app", told.extend)
    monkeypatch.setattr("sys.argv", ["every_system", str(tmp_path)])
    every_system.main()
    assert len(made) == 1
    assert all(f"{name}={tmp_path / name}" in told for name in ("plain", "shuffled", "together"))
    assert told[:3] == ["evaluate", "--library", str(tmp_path / "library")]
    assert {told[i + 1] for i, word in enumerate(told) if word == "--control"} == {
        "right",
        "wrong",
        "none",
    }
