from __future__ import annotations

import json

import pytest

from lag_engine.documents.pairs_file import PairsFile
from lag_engine.documents.passages import Passage, QuestionAnswer
from lag_engine.errors import DocumentError

PASSAGE = Passage("a.txt", "Rosa was born in Lisbon. Ada was born in Oslo.")
LISBON = {"question": "Where was Rosa born?", "answer": "Lisbon"}
OSLO = {"question": "Where was Ada born?", "answer": "Oslo"}


@pytest.fixture
def pairs_file(tmp_path):
    def make(*rows, **options):
        path = tmp_path / "pairs.jsonl"
        lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
        path.write_text("\n".join(lines), encoding="utf-8")
        return PairsFile(path, **options)

    return make


def test_both_forms_of_a_line_are_read(pairs_file):
    file = pairs_file(
        {"id": "a.txt", **LISBON}, "", {"id": "a.txt", "pairs": [OSLO], "rewrites": ["Again."]}
    )
    done = file(PASSAGE)
    assert done.pairs == (QuestionAnswer(**LISBON), QuestionAnswer(**OSLO))
    assert done.rewrites == ("Again.",)
    assert file.unused() == []


def test_repeated_questions_come_once_and_the_passages_own_first(pairs_file):
    file = pairs_file({"id": "a.txt", **LISBON}, {"id": "a.txt", **LISBON})
    own = QuestionAnswer("where was rosa born", "Lisbon")
    assert file(PASSAGE).pairs == (QuestionAnswer(**LISBON),)
    assert file(Passage("a.txt", PASSAGE.text, pairs=(own,))).pairs == (own,)


def test_a_documents_pairs_go_to_the_chunks_that_hold_their_answers(pairs_file):
    file = pairs_file(
        {"id": "a.txt", **LISBON},
        {"id": "a.txt", **OSLO},
        {"id": "a.txt", "question": "Where is Ida?", "answer": "Rome"},
        {"id": "b.txt", **LISBON},
    )
    assert file(Passage("a.txt#0", "Rosa was born in Lisbon.")).pairs == (QuestionAnswer(**LISBON),)
    assert file(Passage("a.txt#1", "Ada was born in Oslo.")).pairs == (QuestionAnswer(**OSLO),)
    assert file.unused() == [3, 4]


def test_an_answer_that_does_not_stand_in_the_passage_is_refused_by_its_line(pairs_file):
    rows = [{"id": "a.txt", **LISBON}, {"id": "a.txt", "question": "Where is Ida?", "answer": "X"}]
    with pytest.raises(DocumentError, match=r"'a.txt'.*'X' in line 2.*check=False"):
        pairs_file(*rows)(PASSAGE)
    assert len(pairs_file(*rows, check=False)(PASSAGE).pairs) == 2


@pytest.mark.parametrize(
    "line",
    [
        "nonsense",
        "[]",
        '{"id": "a"}',
        '{"question": "q", "answer": "a"}',
        '{"id": "a", "question": "q", "answer": ""}',
        '{"id": "a", "question": "q", "answer": null}',
        '{"id": "a", "pairs": 7}',
    ],
)
def test_a_line_of_another_form_is_refused_by_its_number(pairs_file, line):
    with pytest.raises(DocumentError, match=r"line 2 of .*pairs.jsonl"):
        pairs_file({"id": "a.txt", **LISBON}, line)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(DocumentError, match="nowhere"):
        PairsFile(tmp_path / "nowhere.jsonl")


def test_only_the_passages_whose_lines_change_are_encoded_again(pairs_file, prag):
    first, second = Passage("a", "in Lisbon"), Passage("b", "in Oslo")
    rows = [{"id": "a", **LISBON}, {"id": "b", **OSLO}]
    prag(augment=pairs_file(*rows)).encode([first, second])
    assert prag(augment=pairs_file(*reversed(rows))).is_current(first)
    rows[1]["question"] = "Where?"
    changed = prag(augment=pairs_file(*rows))
    assert changed.is_current(first)
    assert not changed.is_current(second)


def test_lines_for_documents_that_could_not_be_read_are_not_told_as_unused(tmp_path):
    path = tmp_path / "pairs.jsonl"
    lines = [{"id": i, "question": "Who?", "answer": "Ann"} for i in ("a.txt", "b.txt#0", "c.TXT")]
    path.write_text("\n".join(map(json.dumps, lines)))
    assert PairsFile(path).unused(unread={"a.txt", "b.txt"}) == [3]
