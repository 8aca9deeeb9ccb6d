"""Whether an answer stands in a text, and what counts as the same text."""

from __future__ import annotations

import re
import unicodedata

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_OTHER = re.compile(r"[^\w\s]|_")


def normalised(text: str) -> str:
    """The text for comparing: lower case, no punctuation, no English articles, single spaces."""
    plain = _OTHER.sub(" ", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(_ARTICLES.sub(" ", plain).split())


def is_supported(answer: str, text: str) -> bool:
    """Whether the answer occurs in the text as whole words, both normalised."""
    words = normalised(answer)
    return bool(words) and f" {words} " in f" {normalised(text)} "
