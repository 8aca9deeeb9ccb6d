"""The synthetic world: two sides that share words and nothing else, the same from every seed."""

from __future__ import annotations

import os
import random
import subprocess
import sys

import pytest

from lag_engine.tiny.words import WORDS
from lag_engine.tiny.world import (
    KINDS,
    KNOWN_PER_KIND,
    RELATIONS,
    Entity,
    fixed_world,
    fresh_entities,
    is_evaluation_name,
    known_world,
    names,
    random_entity,
    random_value,
)

ALL_RELATIONS = [(kind, relation) for kind in KINDS for relation in RELATIONS[kind]]
RELATION_IDS = [f"{kind}-{relation.name}" for kind, relation in ALL_RELATIONS]


def entities(split, count=40, *, seed=0):
    rng = random.Random(seed)
    return [
        random_entity(kind, rng.choice(names(kind, split)), split, rng)
        for kind in KINDS
        for _ in range(count)
    ]


@pytest.mark.parametrize("kind", WORDS)
def test_a_kinds_names_are_split_in_two_and_none_is_lost(kind):
    first, second = (words.split() for words in WORDS[kind])
    train, held_out = names(kind, "train"), names(kind, "eval")
    assert sorted((*train, *held_out)) == sorted(f"{a} {b}" for a in first for b in second)
    assert 0.1 < len(held_out) / (len(train) + len(held_out)) < 0.3


def test_no_name_or_value_of_any_kind_is_on_both_sides():
    train, held_out = (
        {name for kind in WORDS for name in names(kind, split)} for split in ("train", "eval")
    )
    assert not train & held_out


@pytest.mark.parametrize("kind", WORDS)
def test_a_kinds_words_are_distinct(kind):
    for words in WORDS[kind]:
        assert len(set(words.split())) == len(words.split())


@pytest.mark.parametrize("split", ["train", "eval"])
def test_entities_and_their_values_stay_on_their_side(split):
    for entity in (*entities(split), *fixed_world(split, 20, seed=1)):
        for name in (entity.name, *entity.facts.values()):
            assert is_evaluation_name(name) == (split == "eval")


def test_every_value_kind_has_words():
    assert {relation.value_kind for _, relation in ALL_RELATIONS} | set(KINDS) == set(WORDS)


def test_the_relations_of_a_kind_have_distinct_names_and_value_kinds():
    for kind in KINDS:
        assert len({r.name for r in RELATIONS[kind]}) == len(RELATIONS[kind]) == 4
        assert len({r.value_kind for r in RELATIONS[kind]}) == 4


@pytest.mark.parametrize(("kind", "relation"), ALL_RELATIONS, ids=RELATION_IDS)
def test_templates_name_subject_and_value_once(kind, relation):
    assert len(relation.statements) == 3
    for statement in relation.statements:
        assert statement.startswith("{x} ")
        assert statement.count("{x}") == statement.count("{v}") == 1
    for question in relation.questions:
        assert question.count("{x}") == 1
        assert "{v}" not in question
        assert question.endswith("?")


def test_no_phrasing_states_two_relations():
    statements = [s for kind in KINDS for r in RELATIONS[kind] for s in r.statements]
    by_kind = [(kind, s) for kind in KINDS for r in RELATIONS[kind] for s in r.statements]
    assert len(set(by_kind)) == len(statements)


@pytest.mark.parametrize("split", ["train", "eval"])
def test_a_document_states_every_fact_once_and_nothing_else(split):
    rng = random.Random(3)
    for entity in entities(split):
        stated = sentences(entity.document(rng))
        phrasings = {
            relation.name: {entity.state(relation, i) for i in range(3)}
            for relation in entity.relations()
        }
        assert len(stated) == len(phrasings)
        for ways in phrasings.values():
            assert len(ways & set(stated)) == 1


def sentences(text):
    return [f"{part}." for part in text.removesuffix(".").split(". ")]


def test_documents_use_every_order_and_phrasing():
    entity, rng = entities("eval")[0], random.Random(0)
    stated = {tuple(sentences(entity.document(rng))) for _ in range(400)}
    assert len({rows[0] for rows in stated}) == 12
    assert len(stated) > 300


def test_a_false_value_can_be_stated():
    entity = entities("train")[0]
    relation = entity.relations()[0]
    assert entity.facts[relation.name] not in entity.state(relation, 0, value="Nowhere Point")
    assert "Nowhere Point" in entity.state(relation, 0, value="Nowhere Point")


def test_a_person_is_mentioned_by_surname_and_anything_else_by_its_first_word():
    assert Entity("person", "Ada Abbott", {}).mention == "Abbott"
    assert Entity("company", "Acorn Bank", {}).mention == "Acorn"


def test_a_random_value_is_never_the_one_excluded():
    relation = RELATIONS["person"][0]
    rng = random.Random(0)
    excluded = names(relation.value_kind, "eval")[0]
    drawn = {random_value(relation, "eval", rng, but=excluded) for _ in range(3000)}
    assert drawn == set(names(relation.value_kind, "eval")) - {excluded}


@pytest.mark.parametrize("split", ["train", "eval"])
def test_a_fixed_world_is_its_seeds_with_distinct_names_of_each_kind(split):
    world = fixed_world(split, 30, seed=7)
    assert world == fixed_world(split, 30, seed=7)
    assert world != fixed_world(split, 30, seed=8)
    assert len({e.name for e in world}) == len(world)
    assert [e.kind for e in world] == [kind for kind in KINDS for _ in range(30)]


def test_the_known_world_is_of_the_training_side():
    world = known_world(0)
    assert len(world) == KNOWN_PER_KIND * len(KINDS)
    assert not any(is_evaluation_name(e.name) for e in world)


def test_fresh_entities_avoid_the_taken_names_and_follow_the_random_state():
    taken = frozenset(names("person", "train")) | frozenset(names("place", "train")[:100])
    rng = random.Random(0)
    fresh = fresh_entities(taken, rng)
    first = [next(fresh) for _ in range(100)]
    assert not {e.name for e in first} & taken
    state = rng.getstate()
    expected = [next(fresh) for _ in range(5)]
    rng.setstate(state)
    assert [next(fresh_entities(taken, rng)) for _ in range(5)] == expected


def test_the_world_is_the_same_in_every_process():
    code = (
        "import random; from lag_engine.tiny import documents, questions; "
        "from lag_engine.tiny.world import *; from zlib import crc32; "
        "world = [*known_world(0), *fixed_world('eval', 20, seed=1)]; "
        "fresh = fresh_entities(frozenset(e.name for e in world), random.Random(2)); "
        "print(crc32(repr([world, [next(fresh) for _ in range(50)], "
        "documents('eval'), documents('dev'), questions('eval'), questions('dev')]).encode()))"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(seen) == 1
