from __future__ import annotations

import pytest

from lag_engine import EvaluationError
from lag_engine.evaluation.kilt_records import prediction
from lag_engine.evaluation.kilt_retrieval import evaluate_retrieval


def pages(*ids, **more):
    return [{"wikipedia_id": page, **more} for page in ids]


def scores(evidence, guessed, *, ks=(1, 5), question="Who?", answer="x", **options):
    outputs = [{"answer": answer, "provenance": provenance} for provenance in evidence]
    record = {"id": 1, "input": question, "output": outputs}
    return evaluate_retrieval([record], [prediction(1, "", guessed)], ks=ks, **options)


def test_an_evidence_set_counts_at_the_place_of_its_last_page():
    found = scores([pages("1", "2")], pages("1", "8", "9", "2"), ks=(2, 3))
    assert (found["precision@2"], found["recall@2"]) == (0, 0)
    assert (found["precision@3"], found["recall@3"], found["success_rate@3"]) == (1 / 3, 1, 1)


def test_pages_of_one_set_take_one_place():
    assert scores([pages("1", "2")], pages("1", "2"), ks=(1,))["precision@1"] == 1


def test_recall_is_a_share_of_the_distinct_sets():
    found = scores([pages("1"), pages("2"), pages("1")], pages("1", "3"))
    assert (found["recall@5"], found["precision@1"], found["precision@5"]) == (1 / 2, 1, 1 / 5)


def test_a_page_of_two_sets_takes_a_place_in_each():
    found = scores([pages("1"), pages("1", "2")], pages("1", "2"), ks=(2,))
    assert (found["precision@2"], found["recall@2"]) == (1, 1)


def test_an_empty_evidence_set_is_a_set_that_is_never_found():
    assert scores([pages("1"), []], pages("1"))["recall@5"] == 1 / 2


def test_a_page_named_twice_takes_one_place():
    assert scores([pages("1")], pages("9", "9", "1"), ks=(2,))["recall@2"] == 1


def test_without_guesses_every_score_is_nothing():
    assert not any(scores([pages("1")], []).values())


def test_paragraphs_can_be_the_unit_instead_of_pages():
    keys = ("wikipedia_id", "section")
    evidence, guessed = [pages("1", section="A")], pages("1", section="B")
    assert scores(evidence, guessed)["Rprec"] == 1
    assert scores(evidence, guessed, rank_keys=keys)["Rprec"] == 0
    assert scores(evidence, pages("1"), rank_keys=keys)["Rprec"] == 0


def test_answers_and_titles_are_looked_for_in_the_first_texts():
    evidence = [pages("1", title="Rosa Sinclair")]
    guessed = [*pages("2", text="A nurse."), *pages("1", text="The rosa sinclair, nurse!")]
    found = scores(evidence, guessed, question="Is Rosa Sinclair here?", answer="Nurse")
    assert (found["answer_in_context@1"], found["answer_and_ent_in_context@1"]) == (1, 0)
    assert (found["entity_in_context@1"], found["entity_in_context@5"]) == (0, 1)
    assert found["answer_and_ent_in_context@5"] == found["entity_in_input"] == 1


def test_recall_and_success_are_told_beyond_the_first_place():
    assert {name for name in scores([pages("1")], pages("1")) if "@1" in name} == {
        "precision@1",
        "answer_in_context@1",
        "answer_and_ent_in_context@1",
        "entity_in_context@1",
    }


def test_outputs_without_provenance_are_left_out_of_a_prediction():
    record = {"id": 1, "input": "", "output": [{"provenance": pages("1")}]}
    guess = {"id": 1, "output": [{"answer": "x"}, {"provenance": pages("1")}]}
    assert evaluate_retrieval([record], [guess])["Rprec"] == 1
    with pytest.raises(EvaluationError, match="one output with provenance"):
        evaluate_retrieval([record], [{"id": 1, "output": [{"answer": "x"}]}])


def test_a_depth_below_one_is_refused():
    with pytest.raises(EvaluationError, match="at least 1"):
        scores([pages("1")], pages("1"), ks=(0, 1))
