"""Augmentation: what a model writes is read, checked, counted and kept."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from lag_engine import LAGEngine
from lag_engine.documents.augment import Augmenter, pairs_schema, read_pairs
from lag_engine.documents.passages import Passage, QuestionAnswer
from lag_engine.errors import DocumentError

TEXT = "Rosa Sinclair was born in Lisbon in 1900. She founded Cobalt Energy."
PASSAGE = Passage("rosa", TEXT, "Rosa Sinclair")
GIVEN = "Born in Lisbon in 1900, Rosa Sinclair made Cobalt Energy."
GOOD = [
    {"question": "Where was Rosa born?", "answer": "Lisbon"},
    {"question": "When was Rosa born?", "answer": "1900"},
    {"question": "What did she found?", "answer": "Cobalt Energy"},
]


class Scripted:
    """Gives its replies in turn: to JSON prompts from `pairs`, to others from `prose`."""

    def __init__(self, pairs=(), prose=(GIVEN,)):
        self.replies = {True: list(pairs), False: list(prose)}
        self.prompts = []

    def __call__(self, prompt):
        self.prompts.append(prompt)
        replies = self.replies["JSON" in prompt]
        return replies.pop(0) if len(replies) > 1 else replies[0]


def augmenter(*pairs, prose=None, **options):
    script = Scripted(pairs, *([prose] if prose else []))
    return Augmenter.from_callable(script, name="scripted", **options), script


def test_a_passage_gets_the_papers_one_rewrite_and_three_pairs():
    augment, script = augmenter(json.dumps(GOOD))
    done = augment(PASSAGE)
    assert done.pairs == tuple(QuestionAnswer(**pair) for pair in GOOD)
    assert done.rewrites == (GIVEN,)
    assert (done.id, done.text, done.title) == (PASSAGE.id, PASSAGE.text, PASSAGE.title)
    assert len(script.prompts) == 2
    assert all(TEXT in prompt for prompt in script.prompts)


@pytest.mark.parametrize(
    "reply",
    [
        "Sure!\n```json\n{}\n```\nDone.",
        "{}",
        "Here: {} I hope this helps",
    ],
)
def test_a_list_is_read_whatever_stands_around_it(reply):
    assert len(read_pairs(reply.replace("{}", json.dumps(GOOD), 1))) == 3


@pytest.mark.parametrize("reply", ["", "no", '{"question": "a"}', "[1, 2", "[nonsense]"])
def test_what_is_no_list_is_refused(reply):
    with pytest.raises(DocumentError, match="JSON list"):
        read_pairs(reply)


def test_entries_without_question_or_answer_are_left_out():
    rows = [{"question": "q"}, {"answer": "a"}, "x", {"question": " ", "answer": "a"}, GOOD[0]]
    assert read_pairs(json.dumps(rows)) == [QuestionAnswer(**GOOD[0])]


def test_answers_that_do_not_stand_in_the_passage_are_dropped_and_asked_for_again():
    made_up = {"question": "Where did she die?", "answer": "Porto"}
    augment, script = augmenter(json.dumps([made_up, GOOD[0]]), "???", json.dumps(GOOD))
    done = augment(PASSAGE)
    assert [pair.answer for pair in done.pairs] == ["Lisbon", "1900", "Cobalt Energy"]
    counts = augment.counts
    assert (counts.pairs, counts.unsupported, counts.unreadable, counts.repeated) == (3, 1, 1, 1)
    assert len(script.prompts) == 4


def test_questions_that_differ_in_case_only_are_one():
    twice = [GOOD[0], {**GOOD[0], "question": "where was ROSA born"}]
    augment, _ = augmenter(json.dumps(twice), n_pairs=2)
    assert len(augment(PASSAGE).pairs) == 1
    assert augment.counts.repeated


def test_a_copy_or_a_text_without_the_names_is_no_rewrite():
    augment, _ = augmenter(json.dumps(GOOD), prose=[f"{TEXT.upper()}!", "Born.", GIVEN])
    assert augment(PASSAGE).rewrites == (GIVEN,)
    assert (augment.counts.repeated, augment.counts.unsupported) == (1, 1)


def test_pairs_and_rewrites_that_the_passage_has_stay_first():
    own = QuestionAnswer("Is it true?", "Yes")
    augment, _ = augmenter(json.dumps(GOOD))
    done = augment(replace(PASSAGE, pairs=(own,), rewrites=("mine",)))
    assert done.pairs[0] == own
    assert len(done.pairs) == 3
    assert done.rewrites == ("mine",)


def test_a_passage_that_has_all_is_not_sent_to_the_model():
    augment, script = augmenter(json.dumps(GOOD))
    done = augment(PASSAGE)
    script.prompts.clear()
    assert augment(done) == done
    assert not script.prompts


def test_a_model_that_writes_nothing_usable_is_an_error_that_shows_its_reply():
    augment, script = augmenter("I cannot do that")
    with pytest.raises(DocumentError, match=r"scripted.*'rosa'.*I cannot do that"):
        augment(PASSAGE)
    assert len(script.prompts) == 3


def test_a_plain_passage_stays_if_that_is_allowed():
    augment, _ = augmenter("I cannot do that", n_rewrites=0, allow_plain=True)
    assert augment(PASSAGE) == PASSAGE


def test_results_are_kept_on_disk_by_content(tmp_path):
    first, _ = augmenter(json.dumps(GOOD), cache=tmp_path / "cache")
    done = first(PASSAGE)
    second, script = augmenter("nothing", cache=tmp_path / "cache")
    assert second(replace(PASSAGE, id="other")) == replace(done, id="other")
    assert not script.prompts
    assert second.counts.from_cache == 1
    with pytest.raises(DocumentError):
        second(replace(PASSAGE, text=f"{TEXT} And more."))


def test_another_model_or_count_is_another_fingerprint():
    prints = {
        Augmenter.from_callable(str, name=name, n_pairs=n).fingerprint
        for name in ("a", "b")
        for n in (3, 5)
    }
    assert len(prints) == 4


def test_guided_replies_of_any_model_parse(pico):
    with LAGEngine(pico.model, pico.tokenizer, name="pico") as engine:
        augment = Augmenter.from_engine(engine, max_new_tokens=200, allow_plain=True, attempts=2)
        reply = augment.writers.pairs("Write.", 0)
        assert reply == augment.writers.pairs("Write.", 0)
        assert reply != augment.writers.pairs("Write.", 1)
        assert pairs_schema(3)["minItems"] == 3
        if len(engine.tokenizer(reply)["input_ids"]) < 200:
            assert len(read_pairs(reply)) == 3


def test_lag_tiny_cannot_write_pairs_and_that_is_an_error_not_a_fallback():
    with LAGEngine.from_pretrained("lag-tiny") as engine:
        augment = Augmenter.from_engine(engine, attempts=1, max_new_tokens=150)
        with pytest.raises(DocumentError, match="lag-tiny"):
            augment(PASSAGE)
