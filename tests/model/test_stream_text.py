"""Incremental text: pieces join to the whole, characters and stop strings are never split."""

from __future__ import annotations

import random

import pytest

from lag_engine.model.text import StopStrings, TextDecoder

TEXT = "Zoë's 東京 café 🏯👩‍🚀 naïve — ok"


def pieces_of(tokenizer, ids):
    decoder = TextDecoder(tokenizer)
    return [*(decoder.feed(i) for i in ids), decoder.flush()]


def cut(text, stops, sizes):
    """What stays of a text that arrives in pieces of these sizes."""
    matcher, out, start = StopStrings(stops), "", 0
    for size in sizes:
        out += matcher.feed(text[start : start + size])
        start += size
        if matcher.is_found:
            return out, True
    return out + matcher.flush(), False


def test_pieces_join_to_the_text_and_none_holds_half_a_character(byte_tokenizer):
    ids = byte_tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    pieces = pieces_of(byte_tokenizer, ids)
    assert "".join(pieces) == TEXT
    assert "\ufffd" not in "".join(pieces)
    assert max(map(len, pieces)) == 1


def test_random_bytes_stream_to_what_decoding_them_all_gives(byte_tokenizer):
    draw = random.Random(0)
    for _ in range(50):
        ids = [draw.randrange(7, 263) for _ in range(draw.randrange(1, 40))]
        assert "".join(pieces_of(byte_tokenizer, ids)) == byte_tokenizer.decode(ids)


def test_special_tokens_have_no_text_and_do_not_disturb_their_neighbours(byte_tokenizer):
    ids = byte_tokenizer("a<|user|><|end|> b 東<pad>京", add_special_tokens=False)["input_ids"]
    assert "".join(pieces_of(byte_tokenizer, ids)) == "a b 東京"


def test_a_broken_last_character_is_shown_at_the_end_only(byte_tokenizer):
    ids = byte_tokenizer("a京", add_special_tokens=False)["input_ids"][:-1]
    assert pieces_of(byte_tokenizer, ids) == ["a", "", "", "\ufffd"]


def test_a_long_run_of_broken_bytes_is_not_held_back_for_ever(byte_tokenizer):
    continuation_byte = byte_tokenizer("京", add_special_tokens=False)["input_ids"][1]
    pieces = pieces_of(byte_tokenizer, [continuation_byte] * 40)
    assert any(pieces[:-1])
    assert "".join(pieces) == "\ufffd" * 40


@pytest.mark.parametrize("stops", [["END"], ["END", "EN"], ["a", "bcd"], ["\n\n"], ["aab"], []])
def test_where_the_text_is_cut_does_not_depend_on_how_it_arrives(stops):
    draw = random.Random(1)
    for _ in range(200):
        text = "".join(draw.choices("aabcdEND\n", k=draw.randrange(1, 25)))
        one_by_one = cut(text, stops, [1] * len(text))
        sizes, left = [], len(text)
        while left:
            sizes.append(draw.randint(1, left))
            left -= sizes[-1]
        assert cut(text, stops, sizes) == one_by_one
        assert one_by_one[1] == any(s in text for s in stops)
        assert not any(s in one_by_one[0] for s in stops)
        assert text.startswith(one_by_one[0])


def test_only_what_may_begin_a_stop_string_is_held_back():
    matcher = StopStrings(["</answer>"])
    assert matcher.feed("42 </an") == "42 "
    assert matcher.feed("d <") == "</and "
    assert matcher.flush() == "<"
