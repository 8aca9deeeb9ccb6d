from __future__ import annotations

from dataclasses import replace

import pytest

from lag_engine import AdapterLibrary, EvaluationError
from lag_engine.evaluation import EvaluationQuestion, Suite
from lag_engine.evaluation.kilt import score
from lag_engine.evaluation.kilt_records import prediction


def test_a_question_is_a_gold_record_of_kilt(suite):
    question = suite.questions[0]
    found = score(question.record, prediction(question.id, "Nurse", [{"wikipedia_id": "d0"}]))
    assert (found.accuracy, found.em, found.rprec) == (0, 1, 1)


def test_gold_is_the_first_evidence_that_the_suite_has_whole(suite):
    sets = (("d0", "d9"), ("d2", "d1"), ("d0",))
    question = replace(suite.questions[0], evidence=sets)
    assert [document.id for document in suite.right(question)] == ["d2", "d1"]
    assert suite.right(replace(question, evidence=sets[:1])) == []


def test_wrong_documents_are_other_ones_and_always_the_same(suite):
    for question in suite.questions:
        (wrong,) = suite.wrong(question, 0)
        assert wrong not in suite.right(question)
        assert suite.wrong(question, 0) == [wrong]
    drawn = {suite.wrong(suite.questions[0], seed)[0].id for seed in range(20)}
    assert drawn == {"d1", "d2"}


def test_wrong_documents_are_of_the_right_ones_kind(suite):
    documents = [replace(d, kind="x" if d.id == "d0" else "y") for d in suite.documents]
    mixed = replace(suite, documents=tuple(documents))
    with pytest.raises(EvaluationError, match="wrong document for question 'qa-0'"):
        mixed.wrong(mixed.questions[0], 0)
    assert mixed.wrong(mixed.questions[1], 0)[0].id == "d2"


def test_a_sample_has_so_many_of_each_data_set_in_the_old_order(suite):
    drawn = suite.sample(2, seed=1).questions
    assert [q.data_set for q in drawn] == ["set-qa"] * 2 + ["set-slots"] * 2
    assert [q for q in suite.questions if q in drawn] == list(drawn)
    assert suite.sample(9).questions == suite.questions


def test_a_library_tells_which_adapters_belong_to_the_suite(suite, on_disk):
    bare = replace(
        suite,
        documents=tuple(replace(d, adapters={}) for d in suite.documents),
        questions=tuple(replace(q, task_adapter=None) for q in suite.questions),
    )
    with AdapterLibrary.open(on_disk.library, read_only=True) as library:
        assert bare.with_library(library.list()) == suite


def test_fingerprints_tell_suites_apart(suite):
    assert suite.fingerprint == replace(suite).fingerprint
    assert suite.fingerprint != suite.sample(2).fingerprint


@pytest.mark.parametrize(
    ("question", "message"),
    [
        (EvaluationQuestion("qa-0", "Who?", ("x",)), "'qa-0' twice"),
        (EvaluationQuestion("q", "Who?", (" ",)), "gold answer in question 'q'"),
        (EvaluationQuestion("q", "Who?", ("x",), metric="bleu"), "bleu"),
    ],
)
def test_questions_that_cannot_be_scored_are_refused(suite, question, message):
    with pytest.raises(EvaluationError, match=message):
        replace(suite, questions=(*suite.questions, question))


def test_a_suite_asks_something():
    with pytest.raises(EvaluationError, match="at least one question"):
        Suite("nothing", ())
