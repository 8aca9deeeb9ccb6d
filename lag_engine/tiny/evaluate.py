"""Exact match and routing accuracy of every mode on the tiny world.

Run it with ``python -m lag_engine.tiny.evaluate``.

Each task has 200 questions about documents unknown to the base model and to the task adapters.
Retrieval is BM25's best document, as in the paper. Controls take the text or the adapter of another
document of the same kind. Exact match is KILT's accuracy: equal strings, nothing normalised.

Routing accuracy is the share of decisions, one for each token and module of a slot, that chose the
gold adapter: over all tokens, and over the tokens that decide the answer (the prompt's last and
each written one).
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from lag_engine.model.engine import LAGEngine
from lag_engine.model.generation import Generation
from lag_engine.routing.plan import Plan
from lag_engine.tiny.measures import exact_match, routing_accuracy
from lag_engine.tiny.shipped import (
    SEED,
    DocumentSplit,
    TinyDocument,
    TinyQuestion,
    documents,
    questions,
)
from lag_engine.tiny.tasks import TASKS, ask, with_context
from lag_engine.tiny.tool_evaluation import evaluate_tools, tool_cases
from lag_engine.tiny.world import known_world

Source = Literal["none", "gold", "retrieved", "wrong"]
MAX_NEW_TOKENS = 24
BATCH = 50


@dataclass(frozen=True)
class System:
    """One row of the results.

    Attributes:
        name: What it is called in tables.
        mode: A mode of ``Plan.from_mode``.
        text: Whose text goes into the prompt.
        adapter: Whose adapter is pinned in the knowledge slot, where the mode pins one.
        options: Further options of ``Plan.from_mode``.
    """

    name: str
    mode: str
    text: Source = "none"
    adapter: Source = "none"
    options: tuple[tuple[str, Any], ...] = ()


SCORES = ("projection", "norm", "relative")
SYSTEMS: tuple[System, ...] = (
    System("base", "base"),
    System("arrow", "arrow"),
    *(System(f"lag K={k}", "lag", options=(("retrieve_k", k),)) for k in (5, 50, 100)),
    System("lag adaptive K", "lag", options=(("retrieve_k", "adaptive"),)),
    *(System(f"spectr {score}", "spectr", options=(("score", score),)) for score in SCORES),
    *(System(f"lag {score}", "lag", options=(("score", score),)) for score in SCORES),
    System("rag", "rag", text="retrieved"),
    System("prag", "prag", adapter="retrieved"),
    System("rag+lag", "rag+lag", text="retrieved"),
    System("prag+lag", "prag+lag", adapter="retrieved"),
    System("rag+prag+lag", "rag+prag+lag", text="retrieved", adapter="retrieved"),
    System("oracle", "oracle", adapter="gold"),
    System("control: rag+lag, wrong text", "rag+lag", text="wrong"),
    System("control: prag+lag, wrong adapter", "prag+lag", adapter="wrong"),
    System("control: oracle, wrong document adapter", "oracle", adapter="wrong"),
)
"""Where no score is named, the routed slots use the published one, ``projection``."""


@dataclass(frozen=True)
class World:
    """The questions with the document that each source gives them."""

    questions: tuple[TinyQuestion, ...]
    sources: dict[Source, list[TinyDocument | None]]

    @property
    def gold(self) -> list[TinyDocument]:
        """The document that answers each question."""
        return [document for document in self.sources["gold"] if document is not None]

    @classmethod
    def load(cls, split: DocumentSplit, per_task: int) -> World:
        """Retrieves one document for each question and draws its wrong one."""
        asked = questions(split, per_task=per_task)
        by_id = {document.id: document for document in documents(split)}
        gold = [by_id[question.document_id] for question in asked]
        return cls(
            asked,
            {
                "none": [None] * len(asked),
                "gold": list(gold),
                "retrieved": list(_retrieve([q.prompt for q in asked], documents(split))),
                "wrong": [_other(document, documents(split)) for document in gold],
            },
        )


def evaluate(
    engine: LAGEngine,
    world: World,
    systems: Iterable[System] = SYSTEMS,
    *,
    tell: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Runs every system over every question; returns scores as JSON takes them."""
    results: dict[str, Any] = {}
    for system in systems:
        started = time.monotonic()
        answers = _answers(engine, world, system)
        results[system.name] = {
            "exact_match": exact_match(world.questions, [g.text.strip() for g in answers]),
            "routing": routing_accuracy(world.questions, world.gold, answers),
            "seconds_per_question": (time.monotonic() - started) / len(answers),
        }
        mean = results[system.name]["exact_match"]["mean"]["score"]
        tell(f"{system.name}: {100 * mean:.1f} % exact match")
    return results


def base_abilities(engine: LAGEngine, world: World) -> dict[str, float]:
    """Share of open questions whose gold answer stands in the base model's own sentence.

    ``recall``: about its training world, without documents; ``reading``: about the documents of
    the split, with the right one in the prompt; ``guessing``: the same without it.
    """
    rng = random.Random(0)
    known = [
        ask("open_qa", entity, relation, "train", rng)
        for entity in known_world(SEED)
        for relation in entity.relations()
    ]
    asked = [
        (question, document.text)
        for question, document in zip(world.questions, world.gold, strict=True)
        if question.task == "open_qa"
    ]
    cases = {
        "recall": [(q.prompt, q.short) for q in known],
        "reading": [(with_context(text, q.prompt), q.answer) for q, text in asked],
        "guessing": [(q.prompt, q.answer) for q, _ in asked],
    }
    return {name: _share_answered(engine, pairs) for name, pairs in cases.items()}


def _share_answered(engine: LAGEngine, pairs: Sequence[tuple[str, str]]) -> float:
    hits = 0
    for start in range(0, len(pairs), BATCH):
        batch = pairs[start : start + BATCH]
        prompts = [[{"role": "user", "content": prompt}] for prompt, _ in batch]
        answers = engine.generate_batch(prompts, plans="base", max_new_tokens=MAX_NEW_TOKENS)
        hits += sum(gold in a.text for (_, gold), a in zip(batch, answers, strict=True))
    return hits / len(pairs)


def plan_for(
    engine: LAGEngine, system: System, question: TinyQuestion, source: TinyDocument | None
) -> Plan:
    """The plan of one question under one system."""
    options = dict(system.options)
    if source is not None:
        pinned = {"knowledge": [source.adapter]}
        if system.mode == "oracle":
            pinned["task"] = [question.task_adapter]
        options["adapters"] = pinned
    return engine.plan(system.mode, **options)


def _answers(engine: LAGEngine, world: World, system: System) -> list[Generation]:
    texts, adapters = world.sources[system.text], world.sources[system.adapter]
    answers: list[Generation] = []
    for start in track(range(0, len(world.questions), BATCH), description=system.name):
        asked = list(enumerate(world.questions))[start : start + BATCH]
        prompts = []
        for i, question in asked:
            document = texts[i]
            context = "" if document is None else document.text
            prompts.append([{"role": "user", "content": with_context(context, question.prompt)}])
        plans = [plan_for(engine, system, question, adapters[i]) for i, question in asked]
        answers += engine.generate_batch(
            prompts, plans=plans, max_new_tokens=MAX_NEW_TOKENS, trace=True
        )
    return answers


def _retrieve(prompts: list[str], pool: Sequence[TinyDocument]) -> list[TinyDocument]:
    """The best document of each prompt by BM25, as in the paper."""
    import bm25s

    index = bm25s.BM25()
    index.index([_words(document.text) for document in pool], show_progress=False)
    found, _ = index.retrieve([_words(prompt) for prompt in prompts], k=1, show_progress=False)
    return [pool[int(best)] for best in found[:, 0]]


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())


def _other(document: TinyDocument, pool: Sequence[TinyDocument]) -> TinyDocument:
    """The next document of the same kind."""
    same = [other for other in pool if other.kind == document.kind]
    return same[(same.index(document) + 1) % len(same)]


def print_table(results: dict[str, Any], console: Console) -> None:
    """Prints exact match by system and task, and routing accuracy on answer tokens."""
    table = Table(title="Exact match, %, and routing accuracy on answer tokens, %")
    for heading in ("system", *TASKS, "mean", "task adapter", "document adapter"):
        justify: Literal["left", "right"] = "left" if heading == "system" else "right"
        table.add_column(heading.replace("_", " "), justify=justify)
    for name, result in results.items():
        match, routing = result["exact_match"], result["routing"]
        table.add_row(
            name,
            *(f"{100 * match[t]['score']:.1f}" for t in (*TASKS, "mean")),
            *(
                f"{100 * routing[slot]['answer tokens']:.1f}" if slot in routing else ""
                for slot in ("task", "knowledge")
            ),
        )
    console.print(table)


def main() -> None:
    """Evaluates the shipped parts, prints the table and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, help="a JSON file for the results")
    parser.add_argument("--per-task", type=int, default=200)
    arguments = parser.parse_args()
    console = Console(width=150)
    world = World.load("eval", arguments.per_task)
    found = zip(world.sources["retrieved"], world.sources["gold"], strict=True)
    retrieval = sum(a == b for a, b in found) / len(world.questions)
    with LAGEngine.from_pretrained("lag-tiny") as engine:
        abilities = base_abilities(engine, world)
        results = evaluate(engine, world, tell=console.print)
        tools = evaluate_tools(
            engine,
            tool_cases(engine.tokenizer, "eval"),
            tell=console.print,
        )
    print_table(results, console)
    shares = ", ".join(f"{name} {100 * share:.1f} %" for name, share in abilities.items())
    console.print(f"the base model alone, in its own words: {shares}")
    console.print(f"the right document was retrieved for {100 * retrieval:.1f} % of the questions")
    if arguments.output:
        about = {"machine": platform.processor() or platform.machine(), "torch": torch.__version__}
        measured = {
            "about": about,
            "base": abilities,
            "retrieval": retrieval,
            "systems": results,
            "tools": tools,
        }
        arguments.output.write_text(json.dumps(measured, indent=1))


if __name__ == "__main__":
    main()
