"""Passages of the tiny world with the tasks' questions and the base model's own answers."""

from __future__ import annotations

import random
from dataclasses import replace

from lag_engine.documents import Passage, QuestionAnswer
from lag_engine.tiny.shipped import SEED, document_id
from lag_engine.tiny.tasks import ask
from lag_engine.tiny.world import Entity, Relation, Split

ASKED = ("slot_filling", "open_qa", "entity_linking")
"""The tasks whose questions are encoded; dialogue asks as open QA does."""


def task_passage(
    entity: Entity, side: Split, *, text: str = "", told: Entity | None = None
) -> Passage:
    """The entity's passage: a pair for each fact and task.

    Args:
        entity: Whom it is about.
        side: Of the world's split.
        text: Of the document; by default one is drawn.
        told: Another entity of its kind, whose values the answers name instead.
    """
    rng = random.Random(f"{SEED}/{entity.name}/encodings")
    text = text or entity.document(rng)
    pairs = [
        _pair(task, entity, told or entity, relation, side, rng)
        for relation in entity.relations()
        for task in ASKED
    ]
    return Passage(document_id(entity), text, entity.name, tuple(pairs))


def _pair(
    task: str, entity: Entity, told: Entity, relation: Relation, side: Split, rng: random.Random
) -> QuestionAnswer:
    """A question about a fact of the entity, and what the base model would say of the other's."""
    question = ask(task, entity, relation, side, rng)
    answering = told if task == "entity_linking" else replace(entity, facts=told.facts)
    return QuestionAnswer(question.prompt, ask(task, answering, relation, side, rng).sentence)
