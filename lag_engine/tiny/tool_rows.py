"""Training rows of the tool adapter: cases, conversations of several calls, and copied texts.

A call's name and values carry full weight and the rest of its text little: under the guide of the
tools' schemas the rest is written for the model.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerFast

from lag_engine.tiny.corpus import Corpus
from lag_engine.tiny.tokenizer import TOOL_CALL_BEGIN
from lag_engine.tiny.tool_requests import CHAT, Call, Case, CaseMaker
from lag_engine.tiny.tool_values import random_text
from lag_engine.tiny.tools import Side

LONGEST = 420
"""Tokens of the longest row that is trained on."""
FORCED_WEIGHT = 0.2
"""Weight of a call's tokens that its guide forces."""
BARE_SHARE = 0.25
"""Share of calls that begin without the space the tokenizer puts before them."""
COPIED_TOKENS = 48


class ToolRow(NamedTuple):
    """Tokens with the weight of each as a target, and where the last answer begins."""

    ids: list[int]
    weights: list[float]
    start: int


class ToolRows:
    """Endless rows of one side.

    Args:
        tokenizer: The tiny tokenizer.
        side: Of the tools' names.
        seed: Seed of the world and of the rows.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, *, side: Side, seed: int) -> None:
        self.corpus = Corpus(tokenizer, seed=seed, stream=f"tools/{side}")
        self.tokenizer = tokenizer
        self.rng = self.corpus.rng
        self.maker = CaseMaker(side, self.rng, self.corpus.known, self.corpus.fresh)
        self._roles: dict[str, Any] = {
            role: tokenizer.convert_tokens_to_ids(f"<|{role}|>")
            for role in ("user", "assistant", "tool")
        }

    def row(self, *, copies: float, conversations: float) -> ToolRow:
        """A row of at most ``LONGEST`` tokens.

        Args:
            copies: Share of rows that repeat a text.
            conversations: Share of the others that are conversations of several calls.
        """
        while True:
            if self.rng.random() < copies:
                row = self.copied()
            elif self.rng.random() < conversations:
                row = self.conversation()
            else:
                row = self.case(self.maker.case())
            if len(row.ids) <= LONGEST:
                return row

    def case(self, case: Case) -> ToolRow:
        """The case as the chat template writes it, and its answer."""
        ids = self._prompt(case.messages, case.schemas)
        start = len(ids)
        row = ToolRow(ids, [0.0] * start, start)
        self._answer(row, case)
        return row

    def conversation(self) -> ToolRow:
        """Two to four requests for the same tools, with results and sentences about them."""
        tools = self.maker.tools()
        ids = self._prompt([{"role": "user", "content": ""}], [tool.schema() for tool in tools])
        ids = ids[: ids.index(self._end) + 1]
        row = ToolRow(ids, [0.0] * len(ids), len(ids))
        for _ in range(self.rng.choice((2, 3, 4))):
            if self.rng.random() < 0.1:
                said, answer = self.rng.choice(CHAT)
                self._exchange(row, "user", said, Case("chat", (), (), text=answer))
                continue
            tool = self.rng.choice(tools)
            arguments = self.maker.arguments(tool)
            request = self.maker.request(tool, arguments)
            call = Call(tool.name, arguments)
            self._exchange(row, "user", request, Case("call", (), (), (call,)))
            if self.rng.random() < 0.6:
                result, answer = self.maker.outcome()
                self._exchange(row, "tool", result, Case("result", (), (), text=answer))
        return row

    def copied(self) -> ToolRow:
        """Some values, three times; what cannot be known yet carries no weight."""
        texts = [
            random_text("train", self.rng)
            if self.rng.random() < 0.7
            else str(self.rng.randrange(10 ** self.rng.randint(1, 5)))
            for _ in range(self.rng.choice((1, 2, 3)))
        ]
        once = self.corpus.encode(" ".join(texts))[:COPIED_TOKENS]
        known = [0.0, 0.0, *[1.0] * len(once)][: len(once)]
        ids = [int(self.tokenizer.bos_token_id), *once, *once, *once]
        return ToolRow(ids, [0.0] * (1 + len(once)) + known + known, 1)

    @property
    def _end(self) -> int:
        return int(self.tokenizer.eos_token_id)

    def _prompt(self, messages: Any, schemas: Any) -> list[int]:
        ids: Any = self.tokenizer.apply_chat_template(
            list(messages), tools=schemas or None, add_generation_prompt=True, return_dict=False
        )
        return list(ids)

    def _exchange(self, row: ToolRow, role: str, said: str, answer: Case) -> None:
        ids = [self._roles[role], *self.corpus.encode(said.strip()), self._end]
        ids.append(self._roles["assistant"])
        row.ids.extend(ids)
        row.weights.extend([0.0] * len(ids))
        self._answer(row, answer)

    def _answer(self, row: ToolRow, case: Case) -> None:
        encoded: Any = self.tokenizer(
            case.answer, add_special_tokens=False, return_offsets_mapping=True
        )
        ids, weights = list(encoded["input_ids"]), [1.0] * len(encoded["input_ids"])
        if case.answer.startswith((TOOL_CALL_BEGIN, "{")):
            spans = list(_chosen_spans(case))
            weights = [
                1.0 if any(low <= at < high for low, high in spans) else FORCED_WEIGHT
                for at, _ in encoded["offset_mapping"]
            ]
            weights[0] = 1.0
            if self.rng.random() < BARE_SHARE:
                ids, weights = ids[1:], weights[1:]
        row.ids.extend([*ids, self._end])
        row.weights.extend([*weights, 1.0])


def _chosen_spans(case: Case) -> Iterator[tuple[int, int]]:
    """Where in the answer's text the model has a choice.

    That is whether to call, names, values, and what ends them.
    """
    text, at = case.answer, 0
    for call in case.calls or (None,):
        if call is not None:
            at = text.index(TOOL_CALL_BEGIN, at)
            yield at, at + len(TOOL_CALL_BEGIN)
            at = text.index('"name": "', at) + len('"name": "')
            yield at, at + len(call.name) + 1
        arguments = json.loads(text) if call is None else call.arguments
        for key, value in arguments.items():
            at = text.index(f"{json.dumps(key)}: ", at)
            yield at - 2, at + 2  # another key, or the end
            at += len(json.dumps(key)) + 2
            stop = at + len(json.dumps(value, ensure_ascii=False))
            yield at - 1, stop + 1  # with the space before it, which a word's token includes
            at = stop
