"""Trains the tiny model's adapters: one per task, one per evaluation document.

Task adapters (attention, rank 8, alpha 16) see their task's prompts with short answers, half with
the document in the prompt and half about entities the base knows. Document adapters (MLP of the
middle layers, rank 6, alpha 12) see their document and questions about it with answers in the
base's own sentences; the short form occurs only after an earlier turn in that form, so that the
context and not the adapter sets the style.

Both kinds are kept silent on foreign text (``documents.training``): a task adapter on other tasks'
prompts, a document adapter on training entities, half of which share a word with its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from lag_engine.adapters import LoraModule
from lag_engine.documents.training import StackedBatch, StepLosses, TrainingOptions, train_stacked
from lag_engine.tiny.corpus import Corpus, Row
from lag_engine.tiny.tasks import TASKS, Question, ask
from lag_engine.tiny.world import Entity, Split

TASK_OPTIONS = TrainingOptions(
    rank=8, alpha=16, learning_rate=2e-3, silence=1000.0, lora_a_decay=0.1
)
DOCUMENT_OPTIONS = TrainingOptions(
    rank=6, alpha=12, learning_rate=4e-3, silence=30.0, lora_a_decay=0.1
)
TASK_STEPS = 160
DOCUMENT_STEPS = 80
TASK_ROWS, TASK_SILENT_ROWS = 12, 8
DOCUMENT_ROWS, DOCUMENT_SILENT_ROWS = 6, 4
TASK_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")
DOCUMENT_PROJECTIONS = ("gate_proj", "up_proj", "down_proj")
DOCUMENT_LAYERS = (1, 2)

OnStep = Callable[[int, StepLosses], None]


class Example(NamedTuple):
    """One row: tokens, loss weights, and whether the adapter should be silent on each token."""

    ids: list[int]
    weights: list[float]
    silent: list[bool]


def task_targets(layers: int) -> list[str]:
    """Dotted paths of the attention projections."""
    return [f"model.layers.{i}.self_attn.{p}" for i in range(layers) for p in TASK_PROJECTIONS]


def document_targets() -> list[str]:
    """Dotted paths of the MLP projections of ``DOCUMENT_LAYERS``."""
    return [f"model.layers.{i}.mlp.{p}" for i in DOCUMENT_LAYERS for p in DOCUMENT_PROJECTIONS]


def train_task_adapters(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    *,
    seed: int,
    options: TrainingOptions = TASK_OPTIONS,
    steps: int = TASK_STEPS,
    on_step: OnStep | None = None,
) -> dict[str, dict[str, LoraModule]]:
    """One adapter for each of ``TASKS``, trained together."""
    corpus = Corpus(tokenizer, seed=seed, stream="task adapters")

    def batches() -> Iterator[StackedBatch]:
        while True:
            yield _stack(
                [
                    [
                        *(_task_example(corpus, task) for _ in range(TASK_ROWS)),
                        *(foreign_task(corpus, task) for _ in range(TASK_SILENT_ROWS)),
                    ]
                    for task in TASKS
                ],
                tokenizer.pad_token_id,
            )

    trained = train_stacked(
        model,
        batches(),
        count=len(TASKS),
        steps=steps,
        targets=task_targets(model.config.num_hidden_layers),
        options=options,
        on_step=on_step,
    )
    return dict(zip(TASKS, trained, strict=True))


def train_document_adapters(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    entities: list[Entity],
    *,
    split: Split,
    seed: int,
    options: TrainingOptions = DOCUMENT_OPTIONS,
    steps: int = DOCUMENT_STEPS,
    on_step: OnStep | None = None,
) -> list[dict[str, LoraModule]]:
    """One adapter per entity's document, trained together; each sees its own entity only.

    Every adapter has its own stream of rows, so that its training does not depend on the others.
    """
    corpora = [
        Corpus(tokenizer, seed=seed, stream=f"document adapter/{entity.name}")
        for entity in entities
    ]

    def batches() -> Iterator[StackedBatch]:
        while True:
            yield _stack(
                [
                    [
                        *(_document_example(c, e, split) for _ in range(DOCUMENT_ROWS)),
                        *(_foreign_entity(c, e) for _ in range(DOCUMENT_SILENT_ROWS)),
                    ]
                    for c, e in zip(corpora, entities, strict=True)
                ],
                tokenizer.pad_token_id,
            )

    return train_stacked(
        model,
        batches(),
        count=len(entities),
        steps=steps,
        targets=document_targets(),
        options=options,
        on_step=on_step,
    )


def _random_question(
    corpus: Corpus, entity: Entity, split: Split, *, task: str | None = None
) -> Question:
    rng = corpus.rng
    return ask(task or rng.choice(TASKS), entity, rng.choice(entity.relations()), split, rng)


def _subject(corpus: Corpus) -> tuple[Entity, str]:
    """An entity the base can answer about: known by heart, or new with its document."""
    if corpus.rng.random() < 0.5:
        return corpus.rng.choice(corpus.known), ""
    entity = next(corpus.fresh)
    return entity, entity.document(corpus.rng)


def _task_example(corpus: Corpus, task: str) -> Example:
    """A question of the task with its short answer; silent on the document's tokens."""
    entity, context = _subject(corpus)
    row = _begin(corpus)
    corpus.turn(row, _random_question(corpus, entity, "train", task=task), context, short=True)
    covered = 2 + len(corpus.encode(f"Text: {context}")) if context else 0
    return Example(row.ids, row.weights, [i < covered for i in range(len(row.ids))])


def foreign_task(corpus: Corpus, task: str) -> Example:
    """A question of another task in either style, on which to be silent."""
    other = corpus.rng.choice([t for t in TASKS if t != task])
    entity, context = _subject(corpus)
    row = _begin(corpus)
    question = _random_question(corpus, entity, "train", task=other)
    corpus.turn(row, question, context, short=corpus.rng.random() < 0.7)
    return _silent(row)


def _document_example(corpus: Corpus, entity: Entity, split: Split) -> Example:
    """The document itself, or a question about it."""
    row = _begin(corpus)
    if corpus.rng.random() < 0.15:
        row.extend(
            [*corpus.encode(entity.document(corpus.rng)), corpus.tokenizer.eos_token_id], 0.5
        )
        return Example(row.ids, row.weights, [False] * len(row.ids))
    question = _random_question(corpus, entity, split)
    short = corpus.rng.random() < 0.45
    if short:
        first = _random_question(
            corpus, corpus.rng.choice(corpus.known), "train", task=question.task
        )
        corpus.turn(row, first, "", short=True)
    before = len(row.ids)
    corpus.turn(row, question, "", short=short)
    weights = [0.0] * before + row.weights[before:]
    return Example(row.ids, weights, [0 < i < before for i in range(len(row.ids))])


def _foreign_entity(corpus: Corpus, entity: Entity) -> Example:
    """A document or question about some training entity, on which to be silent."""
    other = next(corpus.fresh) if corpus.rng.random() < 0.5 else corpus.neighbour(entity)
    row = _begin(corpus)
    if corpus.rng.random() < 0.2:
        row.extend(corpus.encode(other.document(corpus.rng)))
    else:
        question = _random_question(corpus, other, "train")
        corpus.turn(row, question, "", short=corpus.rng.random() < 0.5)
    return _silent(row)


def _begin(corpus: Corpus) -> Row:
    return Row([corpus.tokenizer.bos_token_id], [0.0])


def _silent(row: Row) -> Example:
    return Example(row.ids, [0.0] * len(row.ids), [i > 0 for i in range(len(row.ids))])


def _stack(groups: list[list[Example]], pad: int) -> StackedBatch:
    """Pads G lists of B examples to one batch (G, B, T)."""
    length = max(len(example.ids) for group in groups for example in group)

    def padded(field: int, fill: float) -> list[list[list[float]]]:
        return [
            [[*e[field], *[fill] * (length - len(e[field]))] for e in group] for group in groups
        ]

    return StackedBatch(
        torch.tensor(padded(0, pad), dtype=torch.long),
        torch.tensor(padded(1, 0.0)),
        torch.tensor(padded(2, False), dtype=torch.bool),
    )
