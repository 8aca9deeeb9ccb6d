"""Long texts to passages: at paragraphs if they fit, else at sentences, else at words."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

Count = Callable[[str], int]
"""A text's length in tokens."""

_BORDERS = (r"\n\s*\n", r"\n", r"(?<=[.!?…])\s+(?=\S)|(?<=[。！？])", r"\s+")
"""Where a text may be cut, the best first."""


def split_text(text: str, *, largest: int, count: Count) -> list[str]:
    """Cuts a text into passages of at most so many tokens, none of them empty.

    Every word is in exactly one passage, in order; a word longer than that is cut by characters.

    Args:
        text: Any.
        largest: The most tokens of a passage.
        count: Counts tokens.
    """
    return list(_split(text.strip(), largest, count, _BORDERS))


def _split(text: str, largest: int, count: Count, borders: Sequence[str]) -> Iterator[str]:
    if not text:
        return
    if count(text) <= largest:
        yield text
    elif not borders:
        yield from _cut(text, largest, count)
    else:
        yield from _packed(text, largest, count, borders)


def _packed(text: str, largest: int, count: Count, borders: Sequence[str]) -> Iterator[str]:
    """Joins neighbouring parts as long as they fit; cuts finer what does not fit alone."""
    start = end = 0
    for part_start, part_end in _parts(text, borders[0]):
        if end > start and count(text[start:part_end].strip()) > largest:
            yield from _split(text[start:end].strip(), largest, count, borders[1:])
            start = part_start
        end = part_end
    yield from _split(text[start:end].strip(), largest, count, borders[1:])


def _parts(text: str, border: str) -> Iterator[tuple[int, int]]:
    """Starts and ends of the parts between borders."""
    start = 0
    for found in re.finditer(border, text):
        yield start, found.start()
        start = found.end()
    yield start, len(text)


def _cut(text: str, largest: int, count: Count) -> Iterator[str]:
    while text:
        size = len(text)
        while size > 1 and count(text[:size]) > largest:
            size = max(1, size // 2)
        yield text[:size]
        text = text[size:]
