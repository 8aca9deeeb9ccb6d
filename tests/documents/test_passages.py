from __future__ import annotations

import pytest

from lag_engine.adapters.info import checked_name
from lag_engine.documents.passages import Passage, QuestionAnswer, adapter_name, check_distinct
from lag_engine.errors import DocumentError


@pytest.mark.parametrize(
    "make",
    [
        lambda: Passage("", "text"),
        lambda: Passage("a", " \n"),
        lambda: QuestionAnswer("", "answer"),
        lambda: QuestionAnswer("question", " "),
    ],
)
def test_what_says_nothing_is_refused(make):
    with pytest.raises(DocumentError, match="Leave"):
        make()


def test_the_content_hash_follows_everything_but_the_id():
    pair = QuestionAnswer("q", "a")
    base = Passage("x", "text", "title", (pair,), ("again",))
    assert Passage("y", "text", "title", (pair,), ("again",)).content_hash == base.content_hash
    others = [
        Passage("x", "text!", "title", (pair,), ("again",)),
        Passage("x", "text", "", (pair,), ("again",)),
        Passage("x", "text", "title", (), ("again",)),
        Passage("x", "text", "title", (pair,)),
        Passage("x", "text", "title", (QuestionAnswer("a", "q"),), ("again",)),
    ]
    assert len({p.content_hash for p in [base, *others]}) == len(others) + 1


def test_the_title_stands_before_the_text_once():
    assert Passage("x", "It is red.", "Mars").titled_text == "Mars\nIt is red."
    assert Passage("x", "Mars is red.", "Mars").titled_text == "Mars is red."
    assert Passage("x", " It is red. ").titled_text == "It is red."


AWKWARD = ["docs/a.md#0", "docs_a.md#0", "a\nb", "a b", " a", "a", "ü" * 300, "\\", "..", "a\\b"]


@pytest.mark.parametrize("passage_id", AWKWARD)
def test_any_id_gives_a_name_that_a_library_takes(passage_id):
    assert checked_name(adapter_name("prag", passage_id)) == adapter_name("prag", passage_id)


def test_different_ids_and_encoders_give_different_names():
    names = [adapter_name(kind, key) for key in AWKWARD for kind in ("prag", "other")]
    assert len(set(names)) == len(names)
    assert adapter_name("prag", "rosa-sinclair") == "prag-rosa-sinclair"


def test_two_passages_of_one_id_are_refused():
    with pytest.raises(DocumentError, match="'b'"):
        check_distinct([Passage("a", "x"), Passage("b", "y"), Passage("b", "z")])
