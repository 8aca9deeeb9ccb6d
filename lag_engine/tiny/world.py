"""A seeded synthetic world: people, companies, places and works, their facts and documents.

Documents state four facts each, every fact in one of three phrasings. Training and evaluation
share single words but no name and no value: a pair of words belongs to one side only.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Literal
from zlib import crc32

from lag_engine.tiny.words import WORDS

Split = Literal["train", "eval"]


@dataclass(frozen=True)
class Relation:
    """One relation of a kind of entity; templates hold ``{x}`` (the subject) and ``{v}``.

    Attributes:
        name: The relation's noun, as in "The employer of X is V."
        value_kind: The kind of its values, a key of ``words.WORDS``.
        statements: Ways to state the fact; each begins with ``{x}``.
        questions: Ways to ask for the value.
    """

    name: str
    value_kind: str
    statements: tuple[str, ...]
    questions: tuple[str, ...]


RELATIONS: dict[str, tuple[Relation, ...]] = {
    "person": (
        Relation(
            "birthplace",
            "place",
            ("{x} was born in {v}.", "{x} grew up in {v}.", "{x} has {v} as birthplace."),
            ("Where was {x} born?", "What is the birthplace of {x}?"),
        ),
        Relation(
            "employer",
            "company",
            ("{x} works for {v}.", "{x} is paid by {v}.", "{x} has {v} as employer."),
            ("Who does {x} work for?", "What is the employer of {x}?"),
        ),
        Relation(
            "occupation",
            "occupation",
            ("{x} works as a {v}.", "{x} trained to become a {v}.", "{x} has the occupation {v}."),
            ("What work does {x} do?", "What is the occupation of {x}?"),
        ),
        Relation(
            "spouse",
            "person",
            ("{x} is married to {v}.", "{x} shares a home with {v}.", "{x} has {v} as spouse."),
            ("Who is {x} married to?", "Who is the spouse of {x}?"),
        ),
    ),
    "company": (
        Relation(
            "founder",
            "person",
            ("{x} was founded by {v}.", "{x} was started by {v}.", "{x} has {v} as founder."),
            ("Who founded {x}?", "Who is the founder of {x}?"),
        ),
        Relation(
            "headquarters",
            "place",
            ("{x} is based in {v}.", "{x} has offices in {v}.", "{x} has {v} as headquarters."),
            ("Where is {x} based?", "Where is the headquarters of {x}?"),
        ),
        Relation(
            "product",
            "product",
            ("{x} makes {v}.", "{x} is known for {v}.", "{x} has {v} as product."),
            ("What does {x} make?", "What is the product of {x}?"),
        ),
        Relation(
            "owner",
            "company",
            ("{x} is owned by {v}.", "{x} belongs to {v}.", "{x} has {v} as owner."),
            ("Who owns {x}?", "Who is the owner of {x}?"),
        ),
    ),
    "place": (
        Relation(
            "region",
            "region",
            ("{x} lies in {v}.", "{x} is part of {v}.", "{x} has {v} as region."),
            ("Where does {x} lie?", "What is the region of {x}?"),
        ),
        Relation(
            "mayor",
            "person",
            ("{x} is governed by {v}.", "{x} has elected {v}.", "{x} has {v} as mayor."),
            ("Who governs {x}?", "Who is the mayor of {x}?"),
        ),
        Relation(
            "festival",
            "festival",
            ("{x} celebrates the {v}.", "{x} holds the {v}.", "{x} has the {v} as festival."),
            ("What does {x} celebrate?", "What is the festival of {x}?"),
        ),
        Relation(
            "landmark",
            "landmark",
            ("{x} is famous for the {v}.", "{x} shows the {v}.", "{x} has the {v} as landmark."),
            ("What is {x} famous for?", "What is the landmark of {x}?"),
        ),
    ),
    "work": (
        Relation(
            "author",
            "person",
            ("{x} was written by {v}.", "{x} comes from the pen of {v}.", "{x} has {v} as author."),
            ("Who wrote {x}?", "Who is the author of {x}?"),
        ),
        Relation(
            "genre",
            "genre",
            ("{x} is read as a {v}.", "{x} is called a {v}.", "{x} has the genre {v}."),
            ("What is {x} read as?", "What is the genre of {x}?"),
        ),
        Relation(
            "setting",
            "place",
            ("{x} is set in {v}.", "{x} takes place in {v}.", "{x} has {v} as setting."),
            ("Where is {x} set?", "What is the setting of {x}?"),
        ),
        Relation(
            "publisher",
            "company",
            ("{x} was published by {v}.", "{x} was printed by {v}.", "{x} has {v} as publisher."),
            ("Who published {x}?", "Who is the publisher of {x}?"),
        ),
    ),
}
KINDS: tuple[str, ...] = tuple(RELATIONS)
KNOWN_PER_KIND = 50


@dataclass(frozen=True)
class Entity:
    """An entity and its facts.

    Attributes:
        kind: A key of ``RELATIONS``.
        name: Two words.
        facts: Relation name -> value.
    """

    kind: str
    name: str
    facts: dict[str, str]

    def relations(self) -> tuple[Relation, ...]:
        """The relations of the entity's kind, in a fixed order."""
        return RELATIONS[self.kind]

    @property
    def mention(self) -> str:
        """The one word by which a text may mention the entity: surname, or first word."""
        first, last = self.name.split()
        return last if self.kind == "person" else first

    def state(self, relation: Relation, phrasing: int, *, value: str | None = None) -> str:
        """The fact as a sentence in the given phrasing; ``value`` states a false one instead."""
        return relation.statements[phrasing].format(
            x=self.name, v=value or self.facts[relation.name]
        )

    def document(self, rng: random.Random) -> str:
        """The four facts in random order, each in a random phrasing."""
        relations = rng.sample(self.relations(), len(self.relations()))
        return " ".join(self.state(r, rng.randrange(len(r.statements))) for r in relations)


@cache
def names(kind: str, split: Split) -> tuple[str, ...]:
    """All names of a kind on one side of the split; a fifth of the pairs is for evaluation."""
    first_words, second_words = (words.split() for words in WORDS[kind])
    pairs = (f"{first} {second}" for first in first_words for second in second_words)
    return tuple(pair for pair in pairs if is_evaluation_name(pair) == (split == "eval"))


def is_evaluation_name(name: str) -> bool:
    """Whether a name or value belongs to the evaluation side; a hash of the words decides."""
    return crc32(name.encode()) % 5 == 0


def random_value(relation: Relation, split: Split, rng: random.Random, *, but: str = "") -> str:
    """A random value of the relation, other than ``but``."""
    while (value := rng.choice(names(relation.value_kind, split))) == but:
        pass
    return value


def random_entity(kind: str, name: str, split: Split, rng: random.Random) -> Entity:
    """An entity of the given name with random facts."""
    return Entity(kind, name, {r.name: random_value(r, split, rng) for r in RELATIONS[kind]})


def fixed_world(split: Split, per_kind: int, *, seed: int) -> list[Entity]:
    """A seeded set of entities with distinct names, ``per_kind`` of each kind."""
    rng = random.Random(f"{seed}/{split}")
    return [
        random_entity(kind, name, split, rng)
        for kind in KINDS
        for name in rng.sample(names(kind, split), per_kind)
    ]


def known_world(seed: int) -> list[Entity]:
    """The fixed training entities that the base model knows by heart."""
    return fixed_world("train", KNOWN_PER_KIND, seed=seed)


def fresh_entities(taken: frozenset[str], rng: random.Random) -> Iterator[Entity]:
    """Endless new training entities whose names are not ``taken``; facts differ every time."""
    while True:
        kind = rng.choice(KINDS)
        name = rng.choice(names(kind, "train"))
        if name not in taken:
            yield random_entity(kind, name, "train", rng)
