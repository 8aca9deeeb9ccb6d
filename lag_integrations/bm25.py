"""BM25 over any framework's passages, kept in a folder."""

from __future__ import annotations

import json
import re
import tempfile
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import bm25s
import numpy as np

from lag_engine import LagError

FORMAT = 1
HEAD_FILE, RECORDS_FILE = "lag-bm25.json", "records.jsonl"

Tokenize = Callable[[str], list[str]]

_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\u0e00-\u0e7f"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")


def words(text: str) -> list[str]:
    """The text's words in lower case; each character of a script without spaces is one."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).lower())


class Hit(NamedTuple):
    """A passage that was found.

    Attributes:
        position: among the indexed passages.
        score: BM25's; 0 if it shares no word with the query.
    """

    position: int
    score: float


class BM25Index:
    """Ranks passages for a query by BM25 (Lucene's variant, k1 1.5, b 0.75).

    Args:
        scores: the index.
        size: how many passages it has.
        tokenize: makes words of passages and queries.
    """

    def __init__(self, scores: bm25s.BM25 | None, size: int, tokenize: Tokenize) -> None:
        self._scores = scores
        self.size = size
        self.tokenize = tokenize

    @classmethod
    def of(cls, texts: Sequence[str], *, tokenize: Tokenize = words) -> BM25Index:
        """Indexes the texts, in their order."""
        tokens = [tokenize(text) for text in texts]
        if not any(tokens):  # bm25s takes no empty vocabulary
            return cls(None, len(texts), tokenize)
        scores = bm25s.BM25()
        scores.index(tokens, show_progress=False)
        return cls(scores, len(texts), tokenize)

    def search(self, query: str, k: int) -> list[Hit]:
        """The best k passages, or all if there are fewer; ties stand in the order of indexing."""
        known = [token for token in self.tokenize(query) if self._knows(token)]
        scores = np.zeros(self.size)
        if self._scores is not None and known:
            scores = self._scores.get_scores(known)
        best = np.argsort(-scores, kind="stable")[:k]
        return [Hit(int(i), float(scores[i])) for i in best]

    def save(self, folder: str | Path, records: Sequence[Mapping[str, Any]]) -> None:
        """Writes the index with one JSON record for each passage, in place of what was there.

        Raises:
            LagError: the folder holds something else, or a record is not JSON.
        """
        target = Path(folder)
        _refuse_foreign(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".bm25-") as scratch:
            made = Path(scratch) / "new"
            made.mkdir()
            if self._scores is not None:
                self._scores.save(made, show_progress=False)
            (made / RECORDS_FILE).write_text(_lines(records), encoding="utf-8")
            head = {"format": FORMAT, "size": self.size, "tokenize": _name(self.tokenize)}
            (made / HEAD_FILE).write_text(json.dumps(head), encoding="utf-8")
            if target.exists():
                target.rename(Path(scratch) / "old")
            made.rename(target)

    @classmethod
    def load(
        cls, folder: str | Path, *, tokenize: Tokenize = words
    ) -> tuple[BM25Index, list[dict[str, Any]]]:
        """The index and the records of a folder that `save` wrote.

        Raises:
            LagError: there is none, it is of another version, or was made with other words.
        """
        source = Path(folder)
        head = _head(source)
        if (head.get("format"), head.get("tokenize")) != (FORMAT, _name(tokenize)):
            raise LagError(
                f"Expected a BM25 index of format {FORMAT}, made with {_name(tokenize)}",
                f"found format {head.get('format')}, made with {head.get('tokenize')}, at {source}",
                "Give the same `tokenize` as when it was made, or index again",
            )
        with (source / RECORDS_FILE).open(encoding="utf-8") as file:
            records = [json.loads(line) for line in file]
        has_words = (source / "vocab.index.json").exists()
        scores = bm25s.BM25.load(source, show_progress=False) if has_words else None
        return cls(scores, head["size"], tokenize), records

    def _knows(self, token: str) -> bool:
        return self._scores is not None and token in self._scores.vocab_dict


def _head(folder: Path) -> dict[str, Any]:
    path = folder / HEAD_FILE
    if not path.is_file():
        raise LagError(
            f"Expected a BM25 index at {folder}", "found none", "Make one with `save` first"
        )
    head: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return head


def _refuse_foreign(folder: Path) -> None:
    if folder.exists() and not (folder / HEAD_FILE).is_file() and any(folder.iterdir()):
        raise LagError(
            f"Expected an empty folder or a BM25 index at {folder}",
            "found other files",
            "Choose another folder, so that nothing of yours is replaced",
        )


def _lines(records: Sequence[Mapping[str, Any]]) -> str:
    try:
        return "".join(json.dumps(dict(r), ensure_ascii=False) + "\n" for r in records)
    except (TypeError, ValueError) as error:
        raise LagError(
            "Expected passages whose metadata JSON can hold",
            f"found: {error}",
            "Leave out or convert what is not a string, number, boolean, list or dict",
        ) from error


def _name(tokenize: Tokenize) -> str:
    return f"{tokenize.__module__}.{tokenize.__qualname__}"
