"""What is asked and what is answered: requests, rows while they are written, and generations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from lag_engine.model.sampling import Sampling, TokenChooser
from lag_engine.model.text import StopStrings, TextDecoder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from lag_engine.model.guided import CompiledGuide
    from lag_engine.routing.plan import Plan
    from lag_engine.routing.trace import RoutingTrace

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Usage:
    """How many tokens were read and written."""

    prompt_tokens: int
    completion_tokens: int

    @property
    def total_tokens(self) -> int:
        """Both together."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True)
class Generation:
    """One answer.

    Args:
        text: without special tokens, cut before a stop string.
        token_ids: every token the model wrote, an end token and a stop string's tokens included.
        finish_reason: "stop" at an end token or a stop string, "length" at `max_new_tokens` or at
            the end of the model's context.
        usage: token counts.
        plan: what was applied.
        prompt_token_ids: what the model read.
        trace: the routing decisions, if asked for: of each prompt token and each written token but
            the last, which the model never reads.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    usage: Usage
    plan: Plan
    prompt_token_ids: tuple[int, ...]
    trace: RoutingTrace | None = None


@dataclass(frozen=True)
class StreamPiece:
    """A step of an answer: the text and tokens since the piece before it.

    The texts of all pieces join to the answer's text, their tokens to its tokens. The last piece,
    and only that, has the whole `generation`.
    """

    text: str
    token_ids: tuple[int, ...]
    generation: Generation | None = None


@dataclass(frozen=True)
class Request:
    """A checked row of a batch: its prompt's ids, plan, sampling settings and guide."""

    prompt_ids: tuple[int, ...]
    plan: Plan
    sampling: Sampling
    end_ids: frozenset[int]
    max_new_tokens: int
    guide: CompiledGuide | None = None


class Row:
    """One answer while it is written: what turns its logits into a token, and tokens into text.

    At each step, whoever drives the model takes the largest of `chooser.scores(logits, token_ids)`
    (of the logits themselves if `chooser.is_plain`) and gives it to `feed`, until there is a
    `finish_reason`.
    """

    def __init__(self, request: Request, tokenizer: PreTrainedTokenizerBase) -> None:
        self.request = request
        self.token_ids: list[int] = []
        self.finish_reason: FinishReason | None = None
        self.pieces: list[str] = []
        self.chooser = TokenChooser(request)
        self._decoder = TextDecoder(tokenizer)
        self._stops = StopStrings(request.sampling.stop)

    @property
    def text(self) -> str:
        """What was given out so far."""
        return "".join(self.pieces)

    def feed(self, token_id: int) -> str:
        """Takes the row's next token and returns the text that became certain."""
        self.token_ids.append(token_id)
        self.chooser.accept(token_id)
        is_end = token_id in self.request.end_ids
        text = "" if is_end else self._stops.feed(self._decoder.feed(token_id))
        if self._stops.is_found or is_end or self.chooser.is_finished:
            self.finish_reason = "stop"
        elif len(self.token_ids) >= self.request.max_new_tokens:
            self.finish_reason = "length"
        if self.finish_reason and not self._stops.is_found:
            text += self._flush()
        self.pieces.append(text)
        return text

    def _flush(self) -> str:
        text = self._stops.feed(self._decoder.flush())
        if self._stops.is_found:
            self.finish_reason = "stop"
            return text
        return text + self._stops.flush()

    def generation(self, trace: RoutingTrace | None = None) -> Generation:
        """The finished answer."""
        assert self.finish_reason is not None
        prompt_ids, token_ids = self.request.prompt_ids, tuple(self.token_ids)
        return Generation(
            text=self.text,
            token_ids=token_ids,
            finish_reason=self.finish_reason,
            usage=Usage(len(prompt_ids), len(token_ids)),
            plan=self.request.plan,
            prompt_token_ids=prompt_ids,
            trace=trace,
        )


OnText = Callable[[Row, str], None]
"""Called after each token of a row with the text that became certain."""


class PieceCutter:
    """Cuts one row's answer into pieces, each with at least some text, and a last one."""

    def __init__(self, emit: Callable[[StreamPiece], None]) -> None:
        self._emit = emit
        self._n_characters = 0
        self._n_tokens = 0

    def __call__(self, row: Row, text: str) -> None:
        """Emits the text with its tokens, unless it is empty or the row's last."""
        if text and row.finish_reason is None:
            self._emit(StreamPiece(text, tuple(row.token_ids[self._n_tokens :])))
            self._n_characters += len(text)
            self._n_tokens = len(row.token_ids)

    def last(self, generation: Generation) -> StreamPiece:
        """The piece that is left when the answer is whole."""
        text = generation.text[self._n_characters :]
        return StreamPiece(text, generation.token_ids[self._n_tokens :], generation)
