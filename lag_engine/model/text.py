"""Text as tokens arrive: whole characters only, and never the beginning of a stop string."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerBase

REPLACEMENT = "\ufffd"
MAX_HELD_BYTES = 8
"""An unfinished character has at most 3 bytes; a longer run of broken bytes is not one."""


@dataclass
class TextDecoder:
    """Decodes tokens one by one into text whose pieces join to the decoding of all of them.

    Only the tokens since the last complete character are decoded again at each step, behind a few
    tokens of context, because a tokenizer may write a token differently at the start of a text.

    Args:
        tokenizer: the model's.
        hidden_ids: the special tokens that have no text; None for all of them.
    """

    tokenizer: PreTrainedTokenizerBase
    hidden_ids: frozenset[int] | None = None
    _ids: list[int] = field(default_factory=list)
    _context: int = 0
    _done: int = 0
    _sent: int = 0

    def feed(self, token_id: int) -> str:
        """The text that became certain with this token; often empty within a character."""
        self._ids.append(token_id)
        new = self._pending()
        stable = new.rstrip(REPLACEMENT)
        if len(new) - len(stable) > MAX_HELD_BYTES:
            stable = new
        piece = stable[self._sent :]
        self._sent = max(self._sent, len(stable))
        # A token without text is kept: the next one may depend on it (SentencePiece's first space).
        if new and stable == new:
            self._advance()
        return piece

    def flush(self) -> str:
        """What is left, a broken character shown as U+FFFD."""
        piece = self._pending()[self._sent :]
        self._advance()
        return piece

    def _pending(self) -> str:
        before = self._decode(self._ids[self._context : self._done])
        return self._decode(self._ids[self._context :])[len(before) :]

    def _advance(self) -> None:
        self._context, self._done, self._sent = self._done, len(self._ids), 0

    def _decode(self, ids: list[int]) -> str:
        if self.hidden_ids is not None:
            ids = [token_id for token_id in ids if token_id not in self.hidden_ids]
        if not ids:
            return ""
        text = self.tokenizer.decode(
            ids,
            skip_special_tokens=self.hidden_ids is None,
            clean_up_tokenization_spaces=False,
        )
        return cast("str", text)


class StopStrings:
    """Finds the first stop string to be completed, however the text is cut into pieces.

    Of two that are completed by the same character, the longer one counts.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self.stops = tuple(stops)
        self.is_found = False
        self._held = ""

    def feed(self, piece: str) -> str:
        """The text that can be given out; what may begin a stop string stays here."""
        self._held += piece
        ends = [(i + len(s), i) for s in self.stops if (i := self._held.find(s)) >= 0]
        if ends:
            self.is_found = True
            _, start = min(ends)
            released, self._held = self._held[:start], ""
            return released
        keep = max((overlap(self._held, stop) for stop in self.stops), default=0)
        cut = len(self._held) - keep
        released, self._held = self._held[:cut], self._held[cut:]
        return released

    def flush(self) -> str:
        """The held text: the stop string it might have begun did not come."""
        released, self._held = self._held, ""
        return released


def overlap(text: str, stop: str) -> int:
    """How many of the text's last characters begin the stop string."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
