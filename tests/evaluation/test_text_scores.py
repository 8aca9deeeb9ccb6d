from __future__ import annotations

import random

import pytest
from rouge import Rouge

from lag_engine.evaluation.text_scores import contains, exact_match, f1, normalize, rouge_l

WORDS = [
    "the",
    "The",
    "cat",
    "Cat",
    "dog",
    "ran.",
    "U.S.",
    "naïve",
    "1,000",
    ".",
    "-",
    "",
    "a.",
    "x",
]


def random_text(rng, most):
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(1, most)))


def test_normalising_drops_case_punctuation_articles_and_spaces():
    assert normalize("  The U.S.-based\nAn a “Cat” ") == "usbased “cat”"


def test_exact_match_holds_between_texts_that_are_nothing_but_articles():
    assert exact_match("The", "an.")
    assert f1("The", "an.") == 0


def test_f1_counts_repeated_words_as_often_as_both_have_them():
    assert f1("cat cat dog", "cat dog dog") == pytest.approx(2 / 3)
    assert f1("cat", "dog") == 0


def test_f1_is_the_same_both_ways():
    rng = random.Random(0)
    for _ in range(100):
        left, right = random_text(rng, 8), random_text(rng, 8)
        assert f1(left, right) == pytest.approx(f1(right, left))


def test_rouge_l_is_that_of_the_package_which_the_official_scripts_use():
    rng, theirs = random.Random(0), Rouge(metrics=["rouge-l"])
    for _ in range(500):
        answer, gold = random_text(rng, 15), random_text(rng, 15)
        try:
            expected = theirs.get_scores(answer, gold)[0]["rouge-l"]["f"]
        except ValueError:  # no sentence in one of them; the official script makes it 0
            expected = 0.0
        assert rouge_l(answer, gold) == expected


def test_rouge_l_takes_texts_too_long_for_the_packages_recursion():
    text = " ".join(f"w{i}" for i in range(1500))
    assert rouge_l(text, text) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("answer", "gold", "is_in"),
    [
        ("The region of Carrick Bay is Little Ferland.", "the little ferland", True),
        ("Little Ferlandia", "Little Ferland", False),
        ("nurse", "nurse", True),
        ("", "nurse", False),
        ("a nurse", "the", False),
    ],
)
def test_an_answer_contains_the_golds_words_in_a_row(answer, gold, is_in):
    assert contains(answer, gold) is is_in
