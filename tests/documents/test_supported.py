from __future__ import annotations

import pytest

from lag_engine.documents.supported import is_rewrite, is_supported, normalised


@pytest.mark.parametrize(
    ("answer", "is_in"),
    [
        ("Paris", True),
        ("the  PARIS!", True),
        ("in Paris, 1900", True),
        ("Par", False),
        ("Paris 1901", False),
        ("", False),
        ("the", False),
        ("里斯本", True),
        ("里本", False),
        ("café", True),
        ("cafe\u0301", True),  # e and a combining accent
    ],
)
def test_an_answer_follows_if_its_words_stand_in_the_text(answer, is_in):
    assert (
        is_supported(answer, "She was born in (the) Paris - 1900, in a café. 在里斯本出生。")
        is is_in
    )


def test_normalised_texts_compare_as_people_read_them():
    assert normalised(" The  Rose's _name_ ") == normalised("rose's Name!")
    assert normalised("red rose") != normalised("rose red")


@pytest.mark.parametrize(
    ("rewrite", "is_one"),
    [
        ("Lisbon is where Rosa was born, in 1900.", True),
        ("In 1900 Rosa came to the world in Lisbon, and later she sailed.", True),
        ("Somebody was born somewhere.", False),
        ("Rosa.", False),
        ("", False),
        ("Rosa Lisbon 1900 " * 20, False),
    ],
)
def test_a_rewrite_keeps_most_names_and_numbers_and_is_not_far_longer(rewrite, is_one):
    assert is_rewrite(rewrite, "Rosa was born in Lisbon in 1900. She sails.") is is_one


def test_a_rewrite_without_capitals_in_its_script_is_judged_by_length():
    assert is_rewrite("他生于里斯本。", "他在里斯本出生。")
