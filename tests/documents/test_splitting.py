from __future__ import annotations

import pytest

from lag_engine.documents.splitting import split_text

TEXT = (
    "One two three. Four five six seven! Eight?\n\nNine ten.\nEleven twelve thirteen "
    "fourteen fifteen sixteen seventeen eighteen.\n\n\nNineteen"
)


def words(text):
    return len(text.split())


@pytest.mark.parametrize("largest", [1, 2, 3, 4, 7, 8, 10, 100])
def test_every_word_is_in_one_passage_in_order_and_none_is_too_long(largest):
    parts = split_text(TEXT, largest=largest, count=words)
    assert " ".join(parts).split() == TEXT.split()
    assert all(0 < words(part) <= largest for part in parts)
    assert all(part == part.strip() for part in parts)


def test_a_text_that_fits_stays_whole():
    assert split_text(f"  {TEXT} ", largest=100, count=words) == [TEXT]


def test_it_is_cut_at_paragraphs_then_lines_then_sentences_then_words():
    parts = split_text(TEXT, largest=8, count=words)
    assert parts == [
        "One two three. Four five six seven! Eight?",
        "Nine ten.",
        "Eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen.",
        "Nineteen",
    ]
    assert split_text(TEXT, largest=4, count=words)[:3] == [
        "One two three.",
        "Four five six seven!",
        "Eight?",
    ]


def test_sentences_without_spaces_and_words_without_end_are_cut_too():
    assert split_text("我来。你来。他来。", largest=3, count=len) == ["我来。", "你来。", "他来。"]
    parts = split_text("x" * 10, largest=4, count=len)
    assert "".join(parts) == "x" * 10
    assert max(map(len, parts)) <= 4


@pytest.mark.parametrize("text", ["", " \n\n "])
def test_an_empty_text_has_no_passage(text):
    assert split_text(text, largest=4, count=words) == []
