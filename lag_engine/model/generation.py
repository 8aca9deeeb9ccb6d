"""What is asked and what is answered: requests, rows while they are written, and generations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from lag_engine.model.reply import NOTHING, Delta, ReplySplitter
from lag_engine.model.sampling import Sampling, TokenChooser
from lag_engine.model.text import StopStrings, TextDecoder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from lag_engine.model.guided import CompiledGuide
    from lag_engine.model.reply import ReplyFormat
    from lag_engine.model.tools import ToolCall
    from lag_engine.routing.plan import Plan
    from lag_engine.routing.trace import RoutingTrace

FinishReason = Literal["stop", "length", "tool_calls"]
TraceDetail = Literal["none", "summary", "full"]
"""How much of the routing an answer tells: nothing, who was chosen how often, every decision."""


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
class TokenLogprob:
    """How likely a token was: by the model, after the guide and before temperature and penalty.

    Args:
        token_id: the token.
        text: what it stands for alone; half of a character is U+FFFD.
        logprob: natural logarithm; at most 0.
        top: the likeliest tokens in its place, the likeliest first; none within these.
    """

    token_id: int
    text: str
    logprob: float
    top: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True)
class Generation:
    """One answer.

    Args:
        text: without special tokens, tool calls and reasoning, cut before a stop string.
        token_ids: every token the model wrote, an end token and a stop string's tokens included.
        finish_reason: "stop" at an end token, a stop string or the end of the guide, "tool_calls"
            if the answer then has any, "length" at `max_new_tokens` or at the end of the model's
            context.
        usage: token counts.
        plan: what was applied.
        prompt_token_ids: what the model read.
        trace: the routing decisions, if asked for: of each prompt token and each written token but
            the last, which the model never reads.
        tool_calls: the whole calls, in order.
        broken_tool_call: the raw text of a call that "length" cut, its marker included; else "".
        reasoning: the text between the template's think markers; "" if there is none.
        logprobs: one for each of `token_ids`, if asked for.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    usage: Usage
    plan: Plan
    prompt_token_ids: tuple[int, ...]
    trace: RoutingTrace | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    broken_tool_call: str = ""
    reasoning: str = ""
    logprobs: tuple[TokenLogprob, ...] | None = None

    def account(self, detail: TraceDetail) -> dict[str, Any]:
        """What was applied: mode and plan, and who was chosen if that was recorded; JSON-able.

        Args:
            detail: "full" adds every decision under "trace".
        """
        told: dict[str, Any] = {"mode": self.plan.mode, "plan": self.plan.key}
        if self.trace is not None:
            told.update(self.trace.summary())
            if detail == "full":
                told["trace"] = self.trace.to_dict()
        return told


@dataclass(frozen=True)
class StreamPiece:
    """A step of an answer: what came since the piece before it.

    The texts of all pieces join to the answer's text, their tokens to its tokens, and so do calls,
    reasoning and log-probabilities. A call comes whole. The last piece, and only that, has the
    whole `generation`.
    """

    text: str
    token_ids: tuple[int, ...]
    generation: Generation | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    reasoning: str = ""
    logprobs: tuple[TokenLogprob, ...] | None = None


@dataclass(frozen=True)
class Request:
    """A checked row of a batch.

    Args:
        prompt_ids: what the model reads.
        plan: what is applied.
        sampling: how tokens are chosen.
        end_ids: the tokens that end the answer.
        max_new_tokens: as `sampling` has it, or what is left of the context.
        guide: what the answer must match; None for anything.
        reply: what the answer may hold besides text; None for nothing.
        logprobs: how many of the likeliest tokens are told with each; None to tell nothing.
    """

    prompt_ids: tuple[int, ...]
    plan: Plan
    sampling: Sampling
    end_ids: frozenset[int]
    max_new_tokens: int
    guide: CompiledGuide | None = None
    reply: ReplyFormat | None = None
    logprobs: int | None = None


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
        self.chooser = TokenChooser(request)
        self._tokenizer = tokenizer
        self._deltas: list[Delta] = []
        reply = request.reply
        self._decoder = TextDecoder(tokenizer, reply.hidden_ids if reply else None)
        self._splitter = ReplySplitter(reply) if reply else None
        self._stops = StopStrings(request.sampling.stop)

    @property
    def text(self) -> str:
        """What was given out so far."""
        return "".join(delta.text for delta in self._deltas)

    def feed(self, token_id: int) -> Delta:
        """Takes the row's next token and returns what became certain of the answer."""
        self.token_ids.append(token_id)
        self.chooser.accept(token_id)
        is_end = token_id in self.request.end_ids
        delta = NOTHING if is_end else self._cut(self._split(self._decoder.feed(token_id)))
        if self._stops.is_found or is_end or self.chooser.is_finished:
            self.finish_reason = "stop"
        elif len(self.token_ids) >= self.request.max_new_tokens:
            self.finish_reason = "length"
        if self.finish_reason and not self._stops.is_found:
            delta = delta.then(self._flush())
        if delta:
            self._deltas.append(delta)
        if self.finish_reason == "stop" and any(d.tool_calls for d in self._deltas):
            self.finish_reason = "tool_calls"
        return delta

    def _split(self, piece: str) -> Delta:
        if self._splitter:
            return self._splitter.feed(piece)
        return Delta(piece) if piece else NOTHING

    def _cut(self, delta: Delta) -> Delta:
        """Cuts at the first stop string; only text has any, and none spans a call."""
        if not self._stops.stops:
            return delta
        text = self._stops.feed(delta.text)
        if self._stops.is_found:
            return Delta(text, delta.reasoning)
        if delta.tool_calls:
            text += self._stops.flush()
        return delta._replace(text=text)

    def _flush(self) -> Delta:
        delta = self._split(self._decoder.flush())
        if self._splitter:
            delta = delta.then(self._splitter.flush())
        delta = self._cut(delta)
        if self._stops.is_found:
            self.finish_reason = "stop"
            return delta
        return delta._replace(text=delta.text + self._stops.flush())

    def logprobs(self, start: int = 0) -> tuple[TokenLogprob, ...] | None:
        """Those of the tokens from `start` on; None if not asked for."""
        if self.chooser.likelihoods is None:
            return None
        return tuple(
            replace(self._told(chosen), top=tuple(map(self._told, top)))
            for chosen, *top in self.chooser.likelihoods[start:]
        )

    def _told(self, likelihood: tuple[int, float]) -> TokenLogprob:
        token_id, logprob = likelihood
        return TokenLogprob(token_id, str(self._tokenizer.decode([token_id])), logprob)

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
            tool_calls=tuple(call for delta in self._deltas for call in delta.tool_calls),
            broken_tool_call=self._splitter.broken_call if self._splitter else "",
            reasoning="".join(delta.reasoning for delta in self._deltas),
            logprobs=self.logprobs(),
        )


OnText = Callable[[Row, Delta], None]
"""Called after each token of a row with what became certain."""


class PieceCutter:
    """Cuts one row's answer into pieces, each with at least something in it, and a last one."""

    def __init__(self, emit: Callable[[StreamPiece], None]) -> None:
        self._emit = emit
        self._n_tokens = 0
        self._last = NOTHING

    def __call__(self, row: Row, delta: Delta) -> None:
        """Emits what came with its tokens, unless it is nothing or the row's last."""
        if row.finish_reason is not None:
            self._last = delta
        elif delta:
            self._emit(self._piece(delta, row.token_ids, row.logprobs(self._n_tokens)))

    def last(self, generation: Generation) -> StreamPiece:
        """The piece that is left when the answer is whole."""
        logprobs = generation.logprobs
        piece = self._piece(
            self._last, generation.token_ids, logprobs and logprobs[self._n_tokens :]
        )
        return replace(piece, generation=generation)

    def _piece(
        self,
        delta: Delta,
        token_ids: Sequence[int],
        logprobs: tuple[TokenLogprob, ...] | None,
    ) -> StreamPiece:
        new = tuple(token_ids[self._n_tokens :])
        self._n_tokens = len(token_ids)
        return StreamPiece(
            delta.text,
            new,
            tool_calls=delta.tool_calls,
            reasoning=delta.reasoning,
            logprobs=logprobs,
        )
