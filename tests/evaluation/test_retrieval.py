from __future__ import annotations

import numpy as np
import pytest

from lag_engine import EvaluationError
from lag_engine.evaluation import BM25Retriever, DenseRetriever, HybridRetriever

TEXTS = ["the red fox", "a blue whale", "the blue fox", ""]


def letters(texts):
    """Counts of letters as vectors."""
    return np.array([[text.count(c) for c in "abcdefghijklmnopqrstuvwxyz"] for text in texts])


def test_bm25_finds_the_text_that_shares_rare_words():
    assert BM25Retriever(TEXTS).rank(["A whale?", "Blue FOX!"], 1) == [[1], [2]]


def test_bm25_keeps_the_order_where_nothing_is_shared():
    assert BM25Retriever(TEXTS).rank(["zebra", ""], 2) == [[0, 1], [0, 1]]


def test_dense_ranks_by_the_cosine():
    ranks = DenseRetriever(TEXTS, letters).rank(["xof der eht eht der xof"], 4)
    assert ranks[0][0] == 0
    assert ranks[0][-1] == 3


def test_hybrid_sums_reciprocal_ranks():
    class Fixed:
        def __init__(self, name, ranking):
            self.name, self.ranking = name, ranking

        def rank(self, queries, k):
            return [self.ranking[:k] for _ in queries]

    parts = [Fixed("a", [0, 1, 2]), Fixed("b", [1, 2, 3])]
    assert HybridRetriever(parts).rank(["x"], 4) == [[1, 2, 0, 3]]
    # 1/61 for the first of one part; 1/62 + 1/61 for one that both have
    assert HybridRetriever(parts).rank(["x"], 2) == [[1, 2]]


@pytest.mark.parametrize("make", [BM25Retriever, lambda texts: DenseRetriever(texts, letters)])
def test_nothing_to_search_is_told(make):
    with pytest.raises(EvaluationError, match="documents to search"):
        make([])


def test_more_than_there_is_gives_all():
    assert [len(r) for r in BM25Retriever(TEXTS).rank(["fox"], 9)] == [4]
