"""Measures of an answer's text against a gold answer: KILT's, and whether the one has the other."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterator, Sequence

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLE = re.compile(r"\b(a|an|the)\b")
_SMOOTHING = 1e-8  # of the `rouge` package, so that 0 / 0 is 0; a perfect answer scores 0.999999995


def normalize(text: str) -> str:
    """Returns the text in lower case, without ASCII punctuation, articles and extra spaces."""
    return " ".join(_ARTICLE.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(answer: str, gold: str) -> bool:
    """Tells whether both are equal once normalised."""
    return normalize(answer) == normalize(gold)


def contains(answer: str, gold: str) -> bool:
    """Tells whether the gold answer's words stand in the answer in a row, once both are normalised.

    It is not KILT's: it tells who wrote the right thing in another form than was asked for.
    """
    words = normalize(gold)
    return bool(words) and f" {words} " in f" {normalize(answer)} "


def f1(answer: str, gold: str) -> float:
    """Returns the F1 of the normalised tokens, repetitions counted; 0 if they share none."""
    answer_tokens, gold_tokens = normalize(answer).split(), normalize(gold).split()
    n_common = sum((Counter(answer_tokens) & Counter(gold_tokens)).values())
    if n_common == 0:
        return 0.0
    precision, recall = n_common / len(answer_tokens), n_common / len(gold_tokens)
    return 2 * precision * recall / (precision + recall)


def rouge_l(answer: str, gold: str) -> float:
    """Returns ROUGE-L's f as the `rouge` package 1.0.1 computes it, which KILT's scripts use.

    It is the summary-level score over sets of words: sentences end at a full stop, each pair of
    sentences gives the words of one longest common subsequence, and the union of these is compared
    with each text's set of words. Nothing is normalised. The `rouge-score` package stems, splits
    and counts otherwise, and gives other numbers; `rouge` itself was last released in 2021, and
    its recursion ends at about a thousand words. Cost: words of the answer times words of gold.
    """
    answer_sentences, gold_sentences = _sentences(answer), _sentences(gold)
    if not answer_sentences or not gold_sentences:
        return 0.0
    common = {
        word
        for gold_words in gold_sentences
        for answer_words in answer_sentences
        for word in _common_subsequence(gold_words, answer_words)
    }
    recall = len(common) / len({word for words in gold_sentences for word in words})
    precision = len(common) / len({word for words in answer_sentences for word in words})
    return 2 * (precision * recall / (precision + recall + _SMOOTHING))


def _sentences(text: str) -> list[list[str]]:
    """The words of each sentence; a sentence of spaces is one empty word."""
    return [" ".join(part.split()).split(" ") for part in text.split(".") if part]


def _common_subsequence(left: Sequence[str], right: Sequence[str]) -> Iterator[str]:
    """Yields one longest common subsequence from its end; of several, the one `rouge` takes."""
    longest = [[0] * (len(right) + 1) for _ in range(len(left) + 1)]
    for i, word in enumerate(left):
        for j, other in enumerate(right):
            longest[i + 1][j + 1] = (
                longest[i][j] + 1 if word == other else max(longest[i][j + 1], longest[i + 1][j])
            )
    i, j = len(left), len(right)
    while i and j:
        if left[i - 1] == right[j - 1]:
            i, j = i - 1, j - 1
            yield left[i]
        elif longest[i - 1][j] > longest[i][j - 1]:
            i -= 1
        else:
            j -= 1
