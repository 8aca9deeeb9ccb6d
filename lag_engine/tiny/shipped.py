"""What ships with the package: paths of the trained parts, the documents and the questions."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from lag_engine.errors import ModelError
from lag_engine.tiny.tasks import TASKS, ask
from lag_engine.tiny.world import KINDS, Entity, Split, fixed_world, known_world

DocumentSplit = Literal["dev", "eval"]
SEED = 0
DOCUMENTS_PER_KIND = 50
TOOL_ADAPTER = "tool_calling"
"""The task adapter that calls tools; it joins the library after those of ``tasks.TASKS``."""
CONTEXT_PROMPT = "Text: {context}\n\n{input}"
"""The user's message of a retrieval chain, as the tiny model was trained to read it."""

ASSETS = Path(__file__).parent / "assets"


@dataclass(frozen=True)
class TinyDocument:
    """A document of the world.

    Attributes:
        id: Stable id, e.g. ``"rosa-sinclair"``.
        kind: What it is about: a person, company, place or work.
        title: The entity's name.
        text: Four sentences.
        adapter: The name of its adapter in the shipped library.
    """

    id: str
    kind: str
    title: str
    text: str
    adapter: str


@dataclass(frozen=True)
class TinyQuestion:
    """A question with its gold answer.

    Attributes:
        task: One of KILT's five task families, as in ``tasks.TASKS``.
        prompt: The user's message, without documents.
        answer: The gold answer in the task's format.
        document_id: The document that answers it.
        task_adapter: The name of the task's adapter in the shipped library.
    """

    task: str
    prompt: str
    answer: str
    document_id: str
    task_adapter: str


def model_path() -> Path:
    """The folder of the shipped model; its name is what PEFT notes in adapters trained on it."""
    return _part("lag-tiny")


def library_path() -> Path:
    """The shipped library of its task and document adapters."""
    return _part("library")


def adapters_path() -> Path:
    """The same adapters as PEFT folders: ``tasks/<task>`` and ``documents/<id>``."""
    return _part("adapters")


def embedder_path() -> Path:
    """The folder of the shipped sentence-transformers model."""
    return _part("embedder")


def world_entities(split: DocumentSplit = "eval") -> list[Entity]:
    """The entities whose documents ship (``eval``), or as many others for choosing settings.

    Both sets are unknown to the base model; the ``dev`` names come from the training side.
    """
    if split == "eval":
        entities = fixed_world("eval", DOCUMENTS_PER_KIND, seed=SEED)
    else:
        known = {entity.name for entity in known_world(SEED)}
        others = fixed_world("train", 2 * DOCUMENTS_PER_KIND, seed=SEED + 1)
        entities = [entity for entity in others if entity.name not in known]
    by_kind = [[e for e in entities if e.kind == kind][:DOCUMENTS_PER_KIND] for kind in KINDS]
    return [entity for row in zip(*by_kind, strict=True) for entity in row]


@cache
def documents(split: DocumentSplit = "eval") -> tuple[TinyDocument, ...]:
    """The documents of the split's entities, the kinds in turn, in a fixed order."""
    rng = random.Random(f"{SEED}/{split}/documents")
    return tuple(_document(entity, rng) for entity in world_entities(split))


@cache
def questions(split: DocumentSplit = "eval", *, per_task: int = 200) -> tuple[TinyQuestion, ...]:
    """Questions about the split's documents: ``per_task`` for each task, every document in turn."""
    rng = random.Random(f"{SEED}/{split}/questions")
    entities = world_entities(split)
    asked = []
    for task in TASKS:
        for i in range(per_task):
            entity = entities[i % len(entities)]
            side: Split = "eval" if split == "eval" else "train"
            question = ask(task, entity, rng.choice(entity.relations()), side, rng)
            asked.append(
                TinyQuestion(task, question.prompt, question.short, document_id(entity), task)
            )
    return tuple(asked)


def document_id(entity: Entity) -> str:
    """The entity's name as an id."""
    return entity.name.lower().replace(" ", "-")


def _document(entity: Entity, rng: random.Random) -> TinyDocument:
    name = document_id(entity)
    return TinyDocument(name, entity.kind, entity.name, entity.document(rng), f"doc-{name}")


def _part(name: str) -> Path:
    path = ASSETS / name
    if not path.is_dir():
        raise ModelError(
            f"Expected the shipped part {name!r} at {path}",
            "Found nothing there",
            "Reinstall the package, or remake it with `python -m lag_engine.tiny.build`",
        )
    return path
