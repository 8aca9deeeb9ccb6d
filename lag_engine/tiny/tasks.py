"""KILT's five task families over the synthetic world: prompts, answers, and two answer styles.

A question has a ``short`` answer, the task's own format, and a ``sentence`` answer, which is what
the base model says by itself. Task adapters teach the short form; document adapters only ever see
sentences, so that a document adapter cannot teach a format (see ``methods.md``, section 8, for the
control this answers).
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from lag_engine.tiny.world import Entity, Relation, Split, random_value

TASKS: tuple[str, ...] = (
    "fact_checking",
    "slot_filling",
    "open_qa",
    "entity_linking",
    "dialogue",
)


@dataclass(frozen=True)
class Question:
    """One question of one task.

    Attributes:
        task: One of ``TASKS``.
        prompt: The user's message, without any document.
        short: The answer in the task's format; the gold answer.
        sentence: The same answer as the base model words it.
    """

    task: str
    prompt: str
    short: str
    sentence: str


def ask(
    task: str, entity: Entity, relation: Relation, split: Split, rng: random.Random
) -> Question:
    """A random question of the task about one fact of the entity."""
    return _MAKERS[task](entity, relation, split, rng)


def with_context(context: str, prompt: str) -> str:
    """The user's message for a question about the given documents' text."""
    return f"Text: {context}\n\n{prompt}" if context else prompt


def _value_sentence(entity: Entity, relation: Relation) -> str:
    return f"The {relation.name} of {entity.name} is {entity.facts[relation.name]}."


def _fact_checking(
    entity: Entity, relation: Relation, split: Split, rng: random.Random
) -> Question:
    true = rng.random() < 0.5
    gold = entity.facts[relation.name]
    value = gold if true else random_value(relation, split, rng, but=gold)
    claim = entity.state(relation, rng.randrange(3), value=value)
    verdict = "right" if true else "wrong"
    return Question(
        "fact_checking",
        f"Claim: {claim}",
        "SUPPORTS" if true else "REFUTES",
        f"The claim about {entity.name} is {verdict}.",
    )


def _slot_filling(entity: Entity, relation: Relation, split: Split, rng: random.Random) -> Question:
    return Question(
        "slot_filling",
        f"{entity.name} [SEP] {relation.name}",
        entity.facts[relation.name],
        _value_sentence(entity, relation),
    )


def _open_qa(entity: Entity, relation: Relation, split: Split, rng: random.Random) -> Question:
    return Question(
        "open_qa",
        f"Question: {rng.choice(relation.questions).format(x=entity.name)}",
        entity.facts[relation.name],
        _value_sentence(entity, relation),
    )


def _entity_linking(
    entity: Entity, relation: Relation, split: Split, rng: random.Random
) -> Question:
    statement = relation.statements[rng.randrange(3)]
    marked = f"[START_ENT] {entity.mention} [END_ENT]"
    return Question(
        "entity_linking",
        statement.format(x=marked, v=entity.facts[relation.name]),
        entity.name,
        f"The text is about {entity.name}.",
    )


def _dialogue(entity: Entity, relation: Relation, split: Split, rng: random.Random) -> Question:
    opening = rng.choice(_OPENINGS).format(x=entity.name)
    question = rng.choice(relation.questions).format(x=entity.name)
    return Question(
        "dialogue",
        f"{opening} {question}",
        f"I think it is {entity.facts[relation.name]}!",
        _value_sentence(entity, relation),
    )


_OPENINGS = (
    "Hello! I just read about {x}.",
    "Hi, my friend told me about {x}.",
    "Good morning! Do you know {x}?",
)
_MAKERS = {
    "fact_checking": _fact_checking,
    "slot_filling": _slot_filling,
    "open_qa": _open_qa,
    "entity_linking": _entity_linking,
    "dialogue": _dialogue,
}
