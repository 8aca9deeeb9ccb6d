"""What the table of encoders asks, and how it is written; the numbers are the program's."""

from __future__ import annotations

from lag_engine.evaluation.statistics import Interval
from lag_engine.tiny.encoder_cases import cases_of, other_cases, shuffled, united, wrong_of
from lag_engine.tiny.encoder_storage import measure
from lag_engine.tiny.encoder_table import CONTROLS, HEADINGS, Row, markdown, page
from lag_engine.tiny.shipped import world_entities
from lag_engine.tiny.world import known_world

CASES = cases_of("eval", 12)
KINDS = [case.kind for case in CASES]


def test_every_fact_is_told_in_one_wording_and_asked_in_another():
    for case in CASES:
        told = {pair.question: pair.answer for pair in case.passage.pairs}
        asked = dict(case.questions)
        assert len(told) == len(asked) == 4
        assert set(told.values()) == set(asked.values())
        assert not set(told) & set(asked)
        for answer in asked.values():
            value = answer.removesuffix(".").partition(" is ")[2]
            assert all(value in text for text in (case.passage.text, *case.passage.rewrites))


def test_the_wrong_document_is_another_of_the_same_kind():
    for place, other in enumerate(wrong_of(KINDS)):
        assert other != place
        assert CASES[other].kind == CASES[place].kind
    assert sorted(wrong_of(KINDS)) == list(range(len(CASES)))


def test_shuffled_pairs_keep_the_questions_and_the_texts_and_no_value():
    for case, passage in zip(CASES, shuffled(CASES), strict=True):
        right = case.passage
        assert (passage.text, passage.rewrites) == (right.text, right.rewrites)
        for ours, theirs in zip(passage.pairs, right.pairs, strict=True):
            assert ours.question == theirs.question
            assert ours.answer.partition(" is ")[0] == theirs.answer.partition(" is ")[0]
            assert ours.answer != theirs.answer


def test_the_one_passage_has_all_pairs_and_texts():
    one = united(CASES)
    assert one.pairs == tuple(pair for case in CASES for pair in case.passage.pairs)
    assert all(case.passage.text in "".join((one.text, *one.rewrites)) for case in CASES)


def test_what_teaches_a_translator_is_unknown_to_both_splits_and_the_model():
    names = {case.passage.title for case in other_cases(40)}
    assert len(names) == 40
    for split in ("dev", "eval"):
        assert not names & {entity.name for entity in world_entities(split)}
    assert not names & {entity.name for entity in known_world(0)}


def test_a_control_that_was_not_run_is_a_dash():
    row = Row("PRAG", {"right": Interval(0.5, 0.4, 0.6, 8)}, n_bytes=73_824, question_seconds=0.01)
    heading, rule, line = markdown([row]).splitlines()
    assert heading.count("|") == rule.count("|") == line.count("|") == len(HEADINGS) + 1
    assert line.count("–") == len(CONTROLS)  # one stands in the interval
    assert "50.0 (40.0–60.0)" in line
    assert "73,824" in line


def test_the_page_says_what_was_measured_and_with_which_command():
    about = {"split": "dev", "documents": 3, "questions": 12, "machine": "M", "torch": "2"}
    told = page(about, [Row("PRAG", {})])
    assert "3 documents, 12 questions of the dev split; M, torch 2." in told
    assert "python -m lag_engine.tiny.encoder_table" in told
    assert told.endswith(markdown([Row("PRAG", {})]))


def test_mixtures_take_less_room_the_more_documents_share_the_latent_adapters():
    adapters, many, few = measure(30)
    assert adapters.ratio == 1
    assert few.ratio > many.ratio > 1
    assert few.one_more < 0.02 * adapters.one_more
