"""Training rows of the tool adapter: cases, conversations of several calls, and copied texts.

A call's name and values carry full weight and the rest of its text little: under the guide of the
tools' schemas the rest is written for the model.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedTokenizerFast

from lag_engine.tiny.corpus import Batch, Corpus
from lag_engine.tiny.tokenizer import TOOL_CALL_BEGIN
from lag_engine.tiny.tool_cases import Call, Case, CaseMaker
from lag_engine.tiny.tool_values import random_text
from lag_engine.tiny.tool_words import CHAT
from lag_engine.tiny.tools import Side

LONGEST = 420
"""Tokens of the longest row that is trained on."""
FORCED_WEIGHT = 0.2
"""Weight of a call's tokens that its guide forces."""
FIRST_WEIGHT, LAST_WEIGHT = 4.0, 3.0
"""Weight of a name's or value's first token, and of what ends it: the rest is copied on."""
BARE_SHARE = 0.25
"""Share of calls that begin without the space the tokenizer puts before them."""
COPIED_TOKENS = 48


class ToolRow(NamedTuple):
    """Tokens, the weight of each as a target, and where what the row is about begins."""

    ids: list[int]
    weights: list[float]
    start: int


def padded_rows(rows: list[ToolRow]) -> Batch:
    """The rows, padded on the right without weight."""
    length = max(len(row.ids) for row in rows)
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    weights = torch.zeros(len(rows), length)
    for i, row in enumerate(rows):
        ids[i, : len(row.ids)] = torch.tensor(row.ids)
        weights[i, : len(row.ids)] = torch.tensor(row.weights)
    return Batch(ids, weights)


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
                case = self.maker.case()
                if case.kind == "recall":
                    continue
                row = self.case(case)
            if len(row.ids) <= LONGEST:
                return row

    def case(self, case: Case) -> ToolRow:
        """The case as the chat template writes it, and its answer, where the row begins."""
        ids = self._prompt(case.messages, case.schemas)
        start = len(ids)
        row = ToolRow(ids, [0.0] * start, start)
        self._answer(row, case)
        return row

    def known(self) -> ToolRow:
        """A question the base can answer, beside tools that cannot; begins with the question."""
        row = self.case(self.maker.case("recall"))
        asked = len(row.ids) - 1 - row.ids[::-1].index(self._roles["user"])
        return ToolRow(row.ids, [0.0] * len(row.ids), asked)

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
            request = self.maker.requests.request(tool, arguments)
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
        weights[0] = FIRST_WEIGHT
        if case.answer.startswith((TOOL_CALL_BEGIN, "{")):
            weights = _call_weights(case, [at for at, _ in encoded["offset_mapping"]])
            if self.rng.random() < BARE_SHARE:
                ids, weights = ids[1:], weights[1:]
        row.ids.extend([*ids, self._end])
        row.weights.extend([*weights, 1.0])


def _call_weights(case: Case, places: list[int]) -> list[float]:
    """The weight of each token of a call, given where in the text it begins."""
    weights = [FORCED_WEIGHT] * len(places)
    weights[0] = 1.0
    for low, high in _chosen_spans(case):
        inside = [i for i, at in enumerate(places) if low <= at < high]
        for i in inside:
            weights[i] = max(weights[i], 1.0)
        weights[inside[0]], weights[inside[-1]] = FIRST_WEIGHT, LAST_WEIGHT
    return weights


def _chosen_spans(case: Case) -> Iterator[tuple[int, int]]:
    """Where in the answer's text the model has a choice.

    That is whether to call, names and values, each with the character that ends it.
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
            at = text.index(f"{json.dumps(key)}: ", at) + len(json.dumps(key)) + 2
            written = json.dumps(value, ensure_ascii=False)
            # The quote is forced, and a word's token includes the space before it.
            low = at + 1 if isinstance(value, str) else at - (not written[0].isdigit())
            yield low, at + len(written) + (not isinstance(value, str))
            at += len(written)
