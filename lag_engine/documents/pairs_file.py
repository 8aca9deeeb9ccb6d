"""Question-answer pairs from a file: one JSON object per line."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from lag_engine.documents.passages import Passage, QuestionAnswer, content_hash
from lag_engine.documents.supported import is_supported, normalised
from lag_engine.errors import DocumentError

CHUNK_MARK = "#"
"""Stands between a document's id and the number of a chunk of it."""


class PairRow(NamedTuple):
    """One line of the file."""

    line: int
    id: str
    pairs: tuple[QuestionAnswer, ...]
    rewrites: tuple[str, ...]


class PairsFile:
    """Gives passages the pairs and rewrites that a file has for them; call it with a passage.

    A line is `{"id", "question", "answer"}` or `{"id", "pairs": [{"question", "answer"}, ...],
    "rewrites": [...]}`. The id is a passage's, or a document's: then each of its chunks gets the
    pairs whose answers stand in it, and no rewrite.

    Args:
        path: The file; UTF-8.
        check: Refuse a passage's pair whose answer does not stand in it.

    Attributes:
        used: The numbers of the lines that some passage has taken.

    Raises:
        DocumentError: The file cannot be read, or a line is not of this form.
    """

    def __init__(self, path: str | Path, *, check: bool = True) -> None:
        self.path = Path(path)
        self.used: set[int] = set()
        self._check = check
        self._rows: dict[str, list[PairRow]] = {}
        for row in _rows(self.path):
            self._rows.setdefault(row.id, []).append(row)

    def __call__(self, passage: Passage) -> Passage:
        """The passage with what the file has for it, after what it has itself.

        Raises:
            DocumentError: An answer does not stand in the passage.
        """
        pairs = {normalised(pair.question): pair for pair in passage.pairs}
        rewrites = dict.fromkeys(passage.rewrites)
        for row in self._rows.get(passage.id, []):
            self.used.add(row.line)
            rewrites |= dict.fromkeys(row.rewrites)
            for pair in row.pairs:
                self._check_supported(pair, passage, row)
                pairs.setdefault(normalised(pair.question), pair)
        for row, pair in self._of_document(passage):
            self.used.add(row.line)
            pairs.setdefault(normalised(pair.question), pair)
        return replace(passage, pairs=tuple(pairs.values()), rewrites=tuple(rewrites))

    def fingerprint_of(self, passage: Passage) -> str:
        """What the file adds to a passage, as a hash: part of its adapter's revision."""
        return content_hash(["pairs file", self(passage).content_hash])[:16]

    def unused(self, *, unread: Collection[str] = ()) -> list[int]:
        """The numbers of the lines that no passage has taken so far.

        Args:
            unread: Documents whose passages are not known; their lines are left out.
        """
        lines = {
            row.line
            for name, rows in self._rows.items()
            if name not in unread and name.rpartition(CHUNK_MARK)[0] not in unread
            for row in rows
        }
        return sorted(lines - self.used)

    def _of_document(self, passage: Passage) -> Iterator[tuple[PairRow, QuestionAnswer]]:
        document, mark, _ = passage.id.rpartition(CHUNK_MARK)
        for row in self._rows.get(document, []) if mark else []:
            for pair in row.pairs:
                if is_supported(pair.answer, passage.titled_text):
                    yield row, pair

    def _check_supported(self, pair: QuestionAnswer, passage: Passage, row: PairRow) -> None:
        if self._check and not is_supported(pair.answer, passage.titled_text):
            raise DocumentError(
                f"Expected the answers for {passage.id!r} to stand in the passage",
                f"found {pair.answer!r} in line {row.line} of {self.path}, which does not",
                "correct the line, or pass check=False (--any-answer on the command line)",
            )


def _rows(path: Path) -> Iterator[PairRow]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DocumentError(
            "Expected a UTF-8 file of pairs", f"found: {error}", "check the path"
        ) from error
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield _row(line, number, path)


def _row(line: str, number: int, path: Path) -> PairRow:
    try:
        row = json.loads(line)
        pairs = row.get("pairs", [row] if "question" in row else [])
        told = tuple(QuestionAnswer(pair["question"], _text(pair["answer"])) for pair in pairs)
        rewrites = tuple(map(_text, row.get("rewrites", [])))
        if not (told or rewrites):
            raise KeyError("question")
        return PairRow(number, _text(row["id"]), told, rewrites)
    except (ValueError, KeyError, TypeError, AttributeError, DocumentError) as error:
        raise DocumentError(
            'Expected a line like {"id": "a.txt", "question": "...", "answer": "..."}',
            f"found in line {number} of {path}: {type(error).__name__}: {error}",
            "write one JSON object per line, with texts that are not empty",
        ) from error


def _text(value: Any) -> str:
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        raise TypeError(f"{value!r} is no text")
    return str(value)
