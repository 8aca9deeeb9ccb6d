"""KILT's scores on cases small enough to work out by hand."""

from __future__ import annotations

import random

import pytest

from lag_engine import EvaluationError
from lag_engine.evaluation.kilt import DATA_SETS, evaluate, score
from lag_engine.evaluation.kilt_records import prediction, read_records, write_records


def gold(*outputs, record_id="q1"):
    return {"id": record_id, "input": "Who?", "output": list(outputs)}


def pages(*ids):
    return [{"wikipedia_id": page, "title": f"Page {page}"} for page in ids]


def result(records, guesses):
    return {k: v for part in evaluate(records, guesses).values() for k, v in part.items()}


def test_the_result_has_the_official_names():
    names = evaluate([gold({"answer": "x", "provenance": pages("1")})], [prediction("q1", "x")])
    assert {part: set(scores) for part, scores in names.items()} == {
        "kilt": {"KILT-accuracy", "KILT-em", "KILT-f1", "KILT-rougel"},
        "downstream": {"accuracy", "em", "f1", "rougel"},
        "retrieval": {"Rprec", "recall@5"},
    }


def test_accuracy_is_strict_and_exact_match_is_not():
    found = result([gold({"answer": "The Cat"})], [prediction("q1", "cat.")])
    assert (found["accuracy"], found["em"]) == (0, 1)


def test_the_best_of_several_gold_answers_counts():
    records = [gold({"answer": "dog"}, {"answer": "black cat"}, {"answer": " "}, {"answer": None})]
    assert result(records, [prediction("q1", " black cat ")])["accuracy"] == 1
    assert result(records, [prediction("q1", "cat")])["f1"] == pytest.approx(2 / 3)


def test_an_empty_answer_scores_nothing_and_counts():
    records = [gold({"answer": "x", "provenance": pages("1")}, record_id=i) for i in (1, 2)]
    found = result(records, [prediction(1, "x", pages("1")), prediction(2, "  ", pages("1"))])
    assert found["accuracy"] == found["KILT-accuracy"] == 0.5
    assert found["Rprec"] == 1


def test_kilt_scores_need_all_pages_of_one_evidence_set():
    records = [gold({"answer": "x", "provenance": pages("1", "2")})]
    half = result(records, [prediction("q1", "x", pages("1", "3"))])
    whole = result(records, [prediction("q1", "x", pages("2", "1", "3"))])
    assert (half["Rprec"], half["accuracy"], half["KILT-accuracy"]) == (0.5, 1, 0)
    assert (whole["Rprec"], whole["KILT-em"], whole["KILT-f1"]) == (1, 1, 1)


def test_the_best_evidence_set_decides_r_precision():
    records = [gold({"provenance": pages("1", "2")}, {"answer": "x", "provenance": pages("3")})]
    assert result(records, [prediction("q1", "x", pages("3"))])["Rprec"] == 1


def test_pages_named_twice_count_once():
    records = [gold({"answer": "x", "provenance": pages("1", "1", "2")})]
    assert result(records, [prediction("q1", "x", pages("1", "1", "2"))])["Rprec"] == 1


def test_a_prediction_without_provenance_has_no_r_precision():
    guess = {"id": "q1", "output": [{"answer": "x"}]}
    found = result([gold({"answer": "x", "provenance": pages("1")})], [guess])
    assert (found["accuracy"], found["Rprec"], found["KILT-accuracy"]) == (1, 0, 0)


def test_records_are_matched_by_trimmed_id_in_any_order():
    records = [gold({"answer": str(i)}, record_id=i) for i in range(4)]
    guesses = [prediction(f" {i} ", str(i)) for i in range(4)]
    random.Random(1).shuffle(guesses)
    assert result(records, guesses)["accuracy"] == 1


@pytest.mark.parametrize(
    ("guesses", "message"),
    [
        ([], "none for 1 of 1"),
        ([prediction("q1", "x"), prediction("q1", "y")], "'q1' twice"),
        ([{"id": "q1", "output": []}], "0 outputs"),
        ([{"id": "q1", "output": [{"answer": "x"}, {"answer": "y"}]}], "2 outputs"),
        ([{"id": "q1", "output": [{"provenance": []}]}], "0 with answers"),
        ([{"output": [{"answer": "x"}]}], "number 1"),
    ],
)
def test_predictions_that_the_official_script_refuses_are_refused(guesses, message):
    with pytest.raises(EvaluationError, match=message):
        evaluate([gold({"answer": "x"})], guesses)


def test_test_rows_without_gold_are_refused():
    with pytest.raises(EvaluationError, match="without gold"):
        score({"id": "q1", "input": "Who?"}, prediction("q1", "x"))
    with pytest.raises(EvaluationError, match="Expected an answer"):
        score(gold({"provenance": pages("1")}), prediction("q1", "x"))


def test_predictions_for_unknown_ids_are_left_out_with_a_warning():
    guesses = [prediction("q1", "x"), prediction("q2", "x")]
    with pytest.warns(UserWarning, match="q2"):
        assert result([gold({"answer": "x"})], guesses)["accuracy"] == 1


def test_every_data_set_has_the_metric_it_is_reported_in():
    metrics = {name: entry.metric for name, entry in DATA_SETS.items()}
    assert {name for name, metric in metrics.items() if metric == "em"} == {
        "nq",
        "triviaqa",
        "hotpotqa",
    }
    assert (metrics["eli5"], metrics["wow"], metrics["fever"]) == ("rougel", "f1", "accuracy")


def test_records_are_read_as_they_were_written(tmp_path):
    records = [prediction("1", "Straße\nand\u2028more", pages("1")), prediction("2", "")]
    write_records(tmp_path / "guess.jsonl", records)
    assert read_records(tmp_path / "guess.jsonl") == records


@pytest.mark.parametrize("line", ["{", "[1]"])
def test_a_broken_line_is_named(tmp_path, line):
    path = tmp_path / "gold.jsonl"
    path.write_text('{"id": 1}\n\n' + line + "\n")
    with pytest.raises(EvaluationError, match=r"gold\.jsonl:3"):
        read_records(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(EvaluationError, match="nothing"):
        read_records(tmp_path / "nothing")
