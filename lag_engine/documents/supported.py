"""Whether an answer stands in a text, a rewrite says the same, and two texts are one."""

from __future__ import annotations

import re
import unicodedata

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_OTHER = re.compile(r"[^\w\s]|_")
_WITHOUT_SPACES = re.compile(
    "([\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff])"
)
"""Thai, Kana, Han and Hangul: scripts whose words are not, or not only, divided by spaces."""

_LEAST_KEPT = 0.5
_MOST_LONGER = 3


def normalised(text: str) -> str:
    """The text for comparing: lower case, no punctuation, no English articles, single spaces."""
    plain = _OTHER.sub(" ", unicodedata.normalize("NFKC", text).casefold())
    divided = _WITHOUT_SPACES.sub(r" \1 ", plain)
    return " ".join(_ARTICLES.sub(" ", divided).split())


def is_supported(answer: str, text: str) -> bool:
    """Whether the answer occurs in the text as whole words, both normalised."""
    words = normalised(answer)
    return bool(words) and f" {words} " in f" {normalised(text)} "


def is_rewrite(rewrite: str, text: str) -> bool:
    """Whether a rewrite has words, most of the text's names and numbers, and is not far longer.

    A text without capitals and numbers, such as one in Chinese, is judged by its length only.
    """
    words = (word for word in re.findall(r"\w+", text) if word[0].isupper() or _has_digit(word))
    details = {normalised(word) for word in words} - {""}
    kept = sum(is_supported(word, rewrite) for word in details)
    is_short = len(rewrite) <= _MOST_LONGER * len(text)
    return bool(normalised(rewrite)) and is_short and kept >= _LEAST_KEPT * len(details)


def _has_digit(word: str) -> bool:
    return any(character.isdigit() for character in word)
