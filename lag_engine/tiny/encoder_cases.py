"""Passages of the tiny world for comparing encoders, with questions in words they were not told in.

A passage's pairs ask for each of its facts in the world's first wording, and answer in the base
model's own sentence; the test asks in the second wording and wants just that sentence. So an
adapter that has learnt how answers look, and nothing of its document, scores no better than the
base model.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lag_engine.documents import Passage, QuestionAnswer
from lag_engine.tiny.shipped import SEED, DocumentSplit, document_id, world_entities
from lag_engine.tiny.world import KINDS, Entity, Relation, fixed_world, known_world


@dataclass(frozen=True)
class Case:
    """A document: its passage, and what is asked about it.

    Attributes:
        kind: What the document is about.
        passage: With a pair for each fact and one rewrite.
        questions: Prompts with their gold answers.
    """

    kind: str
    passage: Passage
    questions: tuple[tuple[str, str], ...]


def cases_of(split: DocumentSplit, count: int) -> list[Case]:
    """The first documents of a split, the kinds in turn."""
    return [_case(entity) for entity in world_entities(split)[:count]]


def other_cases(count: int) -> list[Case]:
    """Documents of neither split and unknown to the base model, for training a translator."""
    return [_case(entity) for entity in other_entities(count)]


def other_entities(count: int) -> list[Entity]:
    """The entities of these documents, the kinds in turn."""
    taken = {e.name for e in (*known_world(SEED), *world_entities("dev"))}
    drawn = [e for e in fixed_world("train", 400, seed=SEED + 2) if e.name not in taken]
    by_kind = [[e for e in drawn if e.kind == kind] for kind in KINDS]
    return [entity for row in zip(*by_kind, strict=False) for entity in row][:count]


def wrong_of(kinds: Sequence[str]) -> list[int]:
    """For each document, told by its kind, the next of that kind; for the last the first."""
    places: dict[str, list[int]] = {}
    for place, kind in enumerate(kinds):
        places.setdefault(kind, []).append(place)
    after = {here: row[(i + 1) % len(row)] for row in places.values() for i, here in enumerate(row)}
    return [after[place] for place in range(len(kinds))]


def shuffled(cases: Sequence[Case]) -> list[Passage]:
    """The passages with each question's answer naming another document's value; texts stay."""
    return [
        _with_answers(case.passage, cases[other].passage)
        for case, other in zip(cases, wrong_of([case.kind for case in cases]), strict=True)
    ]


def united(cases: Sequence[Case]) -> Passage:
    """One passage with the texts and pairs of all."""
    first, *others = (case.passage for case in cases)
    texts = [text for p in others for text in (p.titled_text, *p.rewrites)]
    pairs = [pair for case in cases for pair in case.passage.pairs]
    return replace(first, id="all", pairs=tuple(pairs), rewrites=(*first.rewrites, *texts))


def _case(entity: Entity) -> Case:
    rng = random.Random(f"{SEED}/{entity.name}/encoders")
    told, asked = ([_pair(entity, r, wording) for r in entity.relations()] for wording in (0, 1))
    passage = Passage(
        document_id(entity),
        entity.document(rng),
        entity.name,
        tuple(QuestionAnswer(*pair) for pair in told),
        (entity.document(rng),),
    )
    return Case(entity.kind, passage, tuple(asked))


def _pair(entity: Entity, relation: Relation, wording: int) -> tuple[str, str]:
    question = f"Question: {relation.questions[wording].format(x=entity.name)}"
    return question, f"The {relation.name} of {entity.name} is {entity.facts[relation.name]}."


def _with_answers(passage: Passage, other: Passage) -> Passage:
    """The passage's questions with the other's values; both are of one kind."""
    pairs = tuple(
        QuestionAnswer(pair.question, theirs.answer.replace(other.title, passage.title, 1))
        for pair, theirs in zip(passage.pairs, other.pairs, strict=True)
    )
    return replace(passage, pairs=pairs)
