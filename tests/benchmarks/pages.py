"""How numbers are written into the page of results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence


def spread_text(spread: Mapping[str, float], digits: int) -> str:
    """Returns a median with its quartiles in brackets."""
    low, high = (f"{spread[key]:.{digits}f}" for key in ("low", "high"))
    return f"{spread['median']:.{digits}f} ({low}-{high})"


def markdown(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a table in Markdown."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def met(is_met: bool) -> str:
    """Returns whether a target is met, in a word."""
    return "met" if is_met else "**missed**"
