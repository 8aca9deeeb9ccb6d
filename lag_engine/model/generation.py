"""One batch's decoding on transformers' `generate`: each row its own plan, settings and end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
)

from lag_engine.model.sampling import Sampling, TokenChooser
from lag_engine.model.text import StopStrings, TextDecoder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from lag_engine.model.guided import CompiledGuide
    from lag_engine.routing.plan import Plan
    from lag_engine.routing.recorder import Recorder
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


class RowScores(LogitsProcessor):
    """Lets each row turn its logits into the scores of its next token."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows
        self.is_plain = all(row.chooser.is_plain for row in rows)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores to take the argmax of; (B, V)."""
        if self.is_plain:
            return scores
        # A finished row's token is thrown away.
        rows = [
            of_row if row.finish_reason else row.chooser.scores(of_row, row.token_ids)
            for row, of_row in zip(self.rows, scores, strict=True)
        ]
        return torch.stack(rows)  # (B, V)


class RowsFinished(StoppingCriteria):
    """Feeds each new token to its row and says which rows are at their end."""

    def __init__(
        self,
        rows: Sequence[Row],
        *,
        on_text: OnText | None,
        is_cancelled: Callable[[], bool],
        recorder: Recorder | None,
    ) -> None:
        self.rows = rows
        self.on_text = on_text
        self.is_cancelled = is_cancelled
        self.recorder = recorder

    def __call__(self, input_ids: Tensor, scores: object, **kwargs: object) -> Tensor:
        """True where the row is finished; (B,)."""
        if self.is_cancelled():
            return torch.ones(len(self.rows), dtype=torch.bool, device=input_ids.device)
        for row, token_id in zip(self.rows, input_ids[:, -1].tolist(), strict=True):
            if row.finish_reason is None:
                text = row.feed(token_id)
                if self.on_text is not None:
                    self.on_text(row, text)
        finished = torch.tensor([row.finish_reason is not None for row in self.rows])  # (B,)
        if self.recorder is not None:
            self.recorder.expect(~finished[:, None])
        return finished.to(input_ids.device)


def decode(
    model: PreTrainedModel,
    rows: Sequence[Row],
    *,
    pad_id: int,
    on_text: OnText | None = None,
    is_cancelled: Callable[[], bool] = lambda: False,
    recorder: Recorder | None = None,
) -> None:
    """Writes all rows to their ends, one batch, with a KV cache.

    The rows are changed in place. A cancelled batch leaves rows without a finish reason.

    Args:
        model: any decoder of transformers, routed or not.
        rows: of the batch; finished by their own limits.
        pad_id: fills shorter prompts on the left, and is masked.
        on_text: hears every token as it comes.
        is_cancelled: asked once a token.
        recorder: what is active on the model, told which positions hold a token.
    """
    requests = [row.request for row in rows]
    ids, mask = pad_left([r.prompt_ids for r in requests], pad_id=pad_id, device=model.device)
    finished = RowsFinished(rows, on_text=on_text, is_cancelled=is_cancelled, recorder=recorder)
    if recorder is not None:
        recorder.expect(mask)
    with _neutral_defaults(model):
        cast("Any", model).generate(
            ids,
            attention_mask=mask,
            generation_config=GenerationConfig(
                do_sample=False,
                max_new_tokens=max(r.max_new_tokens for r in requests),
                pad_token_id=pad_id,
                use_cache=True,
            ),
            logits_processor=LogitsProcessorList([RowScores(rows)]),
            stopping_criteria=StoppingCriteriaList([finished]),
        )


def pad_left(
    prompts: Sequence[Sequence[int]], *, pad_id: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask of prompts that all end in the last column; both (B, T)."""
    width = max(len(prompt) for prompt in prompts)
    ids = [[pad_id] * (width - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


@contextmanager
def _neutral_defaults(model: PreTrainedModel) -> Iterator[None]:
    """Hides the checkpoint's generation settings: `generate` fills them in for our defaults."""
    own = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own
