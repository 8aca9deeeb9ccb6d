"""Who finds documents in an experiment: BM25, an embedding model, or both."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lag_engine.errors import EvaluationError

Embed = Callable[[Sequence[str]], Any]
"""Texts to vectors of one width; (n, D)."""

_WORD = re.compile(r"\w+")
_FUSION_CONSTANT = 60  # Cormack et al. 2009; ranks far down hardly count


class Retriever(Protocol):
    """Ranks a fixed set of texts for queries."""

    name: str

    def rank(self, queries: Sequence[str], k: int) -> list[list[int]]:
        """Returns for each query the positions of its best k texts, the best first."""


class BM25Retriever:
    """Ranks by shared words (BM25, Lucene's variant), as the paper does.

    Args:
        texts: to search; at least one.
    """

    name = "bm25"

    def __init__(self, texts: Sequence[str]) -> None:
        import bm25s

        self._size = _checked_size(texts)
        self._index = bm25s.BM25()
        self._index.index([words(text) or [""] for text in texts], show_progress=False)

    def rank(self, queries: Sequence[str], k: int) -> list[list[int]]:
        """As `Retriever.rank`; equal texts stand in their order."""
        ranked = []
        for query in queries:
            known = [word for word in words(query) if word in self._index.vocab_dict]
            scores = self._index.get_scores(known) if known else np.zeros(self._size)
            ranked.append(_best(scores, k))
        return ranked


class DenseRetriever:
    """Ranks by the cosine of embedding vectors.

    Args:
        texts: to search; at least one.
        embed: makes vectors of texts and queries alike.
    """

    name = "dense"

    def __init__(self, texts: Sequence[str], embed: Embed) -> None:
        _checked_size(texts)
        self._embed = embed
        self._vectors = self._unit(texts)  # (N, D)

    def rank(self, queries: Sequence[str], k: int) -> list[list[int]]:
        """As `Retriever.rank`."""
        return [_best(scores, k) for scores in self._unit(queries) @ self._vectors.T]

    def _unit(self, texts: Sequence[str]) -> NDArray[np.float64]:
        vectors = np.asarray(self._embed(list(texts)), dtype=np.float64)
        lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
        return vectors / np.where(lengths > 0, lengths, 1.0)


class HybridRetriever:
    """Ranks by the sum of 1 / (60 + rank) over other retrievers of the same texts.

    Args:
        parts: at least one.
        depth: how far down each part's ranks count.
    """

    name = "hybrid"

    def __init__(self, parts: Sequence[Retriever], *, depth: int = 100) -> None:
        self._parts = parts
        self._depth = depth

    def rank(self, queries: Sequence[str], k: int) -> list[list[int]]:
        """As `Retriever.rank`; ties stand as the first part has them."""
        rankings = [part.rank(queries, max(k, self._depth)) for part in self._parts]
        return [self._fused(found)[:k] for found in zip(*rankings, strict=True)]

    @staticmethod
    def _fused(rankings: Sequence[Sequence[int]]) -> list[int]:
        points: dict[int, float] = {}
        for ranking in rankings:
            for rank, position in enumerate(ranking, 1):
                points[position] = points.get(position, 0.0) + 1 / (_FUSION_CONSTANT + rank)
        return sorted(points, key=lambda position: -points[position])


def words(text: str) -> list[str]:
    """The text's words and numbers in lower case."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).lower())


def _checked_size(texts: Sequence[str]) -> int:
    if not texts:
        raise EvaluationError(
            "Expected documents to search", "found none", "add documents, or choose other modes"
        )
    return len(texts)


def _best(scores: Any, k: int) -> list[int]:
    return [int(i) for i in np.argsort(-np.asarray(scores), kind="stable")[:k]]
