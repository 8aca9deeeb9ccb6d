"""Training rows of the base model: copying, documents, reading and recall, in one mix.

A row is a list of tokens with a weight for each; only answers, repeated stretches and document
rows carry weight (loss on every token taught reading far more slowly).
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedTokenizerFast

from lag_engine.tiny.tasks import TASKS, Question, ask, with_context
from lag_engine.tiny.world import (
    Entity,
    Relation,
    fresh_entities,
    known_world,
    names,
    random_entity,
)

ROW_TOKENS = 160
HARD_SHARE = 0.4
"""Share of questions for which a relation within one kind is preferred, such as spouse."""
SHORT_SHARE = 0.25
"""Share of short answers; well under a half, so that the greedy answer stays a sentence."""
SHORT_WEIGHT = 2.0
VERDICT_WEIGHT = 3.0
"""Weight of the one token that carries a claim's verdict; its lesson drowns among copied words."""
DOCUMENT_COUNTS = (1, 1, 1, 2, 2)


class Batch(NamedTuple):
    """Token ids (B, T) and the loss weight of each token as a target (B, T)."""

    ids: torch.Tensor
    weights: torch.Tensor


class Span(NamedTuple):
    """An answer's place in a row: tokens ``start`` to ``stop``, and what it answers."""

    start: int
    stop: int
    label: str


@dataclass
class Row:
    """A row under construction."""

    ids: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)

    def extend(self, ids: list[int], weight: float = 0.0) -> None:
        """Appends tokens that share one weight."""
        self.ids += ids
        self.weights += [weight] * len(ids)


class Corpus:
    """Endless seeded training rows.

    Args:
        tokenizer: The tiny tokenizer.
        seed: Seed of the world and of the rows.
        stream: Names an independent stream of rows from the same world ("train", "dev").
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, *, seed: int, stream: str = "train"
    ) -> None:
        self.tokenizer = tokenizer
        self.rng = random.Random(f"{seed}/{stream}")
        self.known = known_world(seed)
        self.fresh = fresh_entities(frozenset(e.name for e in self.known), self.rng)
        self._role: dict[str, Any] = {
            role: tokenizer.convert_tokens_to_ids(f"<|{role}|>") for role in ("user", "assistant")
        }
        verdicts = " right wrong SUPPORTS REFUTES"
        self._verdicts = frozenset(tokenizer(verdicts, add_special_tokens=False)["input_ids"])
        vocabulary = tokenizer.get_vocab().items()  # in no fixed order
        self._words = sorted(i for token, i in vocabulary if token.startswith("Ġ"))

    def batch(self, size: int, mix: dict[str, float]) -> Batch:
        """Rows drawn by the mix of kinds (``copy``, ``documents``, ``reading``, ``recall``)."""
        kinds = self.rng.choices(list(mix), list(mix.values()), k=size)
        rows = [self.row(kind) for kind in kinds]
        pad = self.tokenizer.pad_token_id
        ids = [(row.ids + [pad] * ROW_TOKENS)[:ROW_TOKENS] for row in rows]
        weights = [(row.weights + [0.0] * ROW_TOKENS)[:ROW_TOKENS] for row in rows]
        return Batch(torch.tensor(ids), torch.tensor(weights))

    def row(self, kind: str) -> Row:
        """One row of the given kind; it may run over ``ROW_TOKENS`` and is cut then."""
        row = Row()
        row.extend([self.tokenizer.bos_token_id])
        while len(row.ids) < ROW_TOKENS - 24:
            getattr(self, f"_{kind}")(row)
        return row

    def neighbour(self, entity: Entity) -> Entity:
        """A training entity of the same kind whose name shares one word with the entity's."""
        first, last = entity.name.split()
        sharing = [
            name
            for name in names(entity.kind, "train")
            if (name.split()[0] == first) != (name.split()[1] == last)
        ]
        return random_entity(entity.kind, self.rng.choice(sharing), "train", self.rng)

    def encode(self, text: str) -> list[int]:
        """Token ids without the begin token."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _copy(self, row: Row) -> None:
        length = self.rng.randint(4, 40)
        if self.rng.random() < 0.3:
            stretch = [self.rng.randrange(7, 7 + 256) for _ in range(length)]
        else:
            stretch = self.rng.choices(self._words, k=length)
        row.extend(stretch)
        for _ in range(self.rng.randint(1, 3)):
            row.extend(stretch, weight=1.0)

    def _documents(self, row: Row) -> None:
        row.extend(self.encode(next(self.fresh).document(self.rng)), weight=0.5)

    def _reading(self, row: Row) -> None:
        entities = [next(self.fresh) for _ in range(self.rng.choice(DOCUMENT_COUNTS))]
        context = self.rng.choice(("\n\n", " ")).join(e.document(self.rng) for e in entities)
        self._conversation(row, entities, context)

    def _recall(self, row: Row) -> None:
        self._conversation(row, self.known, "")

    def _conversation(self, row: Row, entities: list[Entity], context: str) -> None:
        """Questions until the row is full; half the conversations keep one answer style."""
        fixed = self.rng.random() < 0.5
        short = self.rng.random() < SHORT_SHARE
        while len(row.ids) < ROW_TOKENS - 24:
            short = short if fixed else self.rng.random() < SHORT_SHARE
            entity = self.rng.choice(entities)
            relation = self._relation(entity)
            question = ask(self.rng.choice(TASKS), entity, relation, "train", self.rng)
            self.turn(row, question, context, short=short)
            context = ""

    def _relation(self, entity: Entity) -> Relation:
        """A random relation; those whose value is of the entity's own kind are learnt last."""
        relations = entity.relations()
        hard = [relation for relation in relations if relation.value_kind == entity.kind]
        return self.rng.choice(hard if hard and self.rng.random() < HARD_SHARE else relations)

    def turn(self, row: Row, question: Question, context: str, *, short: bool) -> None:
        """Appends one question and its answer."""
        end = int(self.tokenizer.eos_token_id)
        message = self.encode(with_context(context, question.prompt))
        row.extend([self._role["user"], *message, end, self._role["assistant"]])
        answer = self.encode(question.short if short else question.sentence)
        weight = SHORT_WEIGHT if short else 1.0
        start = len(row.ids)
        for token in (*answer, end):
            row.extend([token], VERDICT_WEIGHT if token in self._verdicts else weight)
        row.spans.append(
            Span(start, len(row.ids), f"{question.task}/{'short' if short else 'sentence'}")
        )


def dev_rows(corpus: Corpus, kind: str, count: int) -> Iterator[Row]:
    """Rows with at least one whole answer, cut to length, for measuring."""
    for _ in range(count):
        row = corpus.row(kind)
        row.ids = row.ids[:ROW_TOKENS]
        row.spans = [span for span in row.spans if span.stop <= ROW_TOKENS]
        yield row
