from __future__ import annotations

import pytest

from lag_engine.documents.supported import is_supported, normalised


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
        ("café", True),
        ("cafe\u0301", True),  # e and a combining accent
    ],
)
def test_an_answer_follows_if_its_words_stand_in_the_text(answer, is_in):
    assert is_supported(answer, "She was born in (the) Paris - 1900, in a café.") is is_in


def test_normalised_texts_compare_as_people_read_them():
    assert normalised(" The  Rose's _name_ ") == normalised("rose's Name!")
    assert normalised("red rose") != normalised("rose red")
