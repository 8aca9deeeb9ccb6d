"""LAG, Arrow, SpectR and PRAG+LAG among 200, 500 and more documents.

Run it with ``python -m lag_engine.tiny.library_sizes FOLDER OUTPUT``; it goes on where it was cut
off. In FOLDER it makes a library of the shipped task adapters and an adapter for each document:
the shipped ones and, drawn from names that the base model does not know, as many others as it
takes. All are PRAG's, of the same settings, so that none stands out by how it was trained; the
shipped document adapters, which are kept silent on foreign text, would.

Asked are the evaluation questions about the first documents. With n documents, routed modes choose
among n adapters, the gold one and others drawn at random, and BM25 searches the first n texts.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from lag_engine.adapters import AdapterLibrary
from lag_engine.documents import PRAG
from lag_engine.evaluation import (
    BM25Retriever,
    EvaluationDocument,
    Experiment,
    Results,
    Suite,
    System,
    write_report,
)
from lag_engine.model.engine import LAGEngine
from lag_engine.model.loading import TINY
from lag_engine.routing import Score
from lag_engine.tiny.encodings import SETTINGS
from lag_engine.tiny.shipped import (
    SEED,
    TOOL_ADAPTER,
    adapters_path,
    document_id,
    documents,
    model_path,
    world_entities,
)
from lag_engine.tiny.suite import tiny_suite
from lag_engine.tiny.task_passages import task_passage
from lag_engine.tiny.tasks import TASKS
from lag_engine.tiny.world import KINDS, Entity, fixed_world, known_world

SIZES = (200, 500)
ROUTED = ("arrow", "spectr", "lag")
OTHER_SCORES: tuple[Score, ...] = ("relative", "norm")
"""All these adapters start from one lora_A, which ``projection`` can hardly tell apart."""
DRAWN_PER_KIND = 600  # of which the base model knows some; companies and places have 613 names
QUESTIONS_PER_TASK = 100


def many_entities(count: int) -> list[Entity]:
    """The evaluation documents' entities, then others that the base model does not know."""
    known = {entity.name for entity in known_world(SEED)}
    drawn = fixed_world("train", DRAWN_PER_KIND, seed=SEED + 3)
    by_kind = [[e for e in drawn if e.kind == kind and e.name not in known] for kind in KINDS]
    others = [entity for row in zip(*by_kind, strict=False) for entity in row]
    return [*world_entities("eval"), *others][:count]


def encode(path: Path, count: int) -> Suite:
    """Brings the library up to date with so many documents.

    Returns:
        The evaluation questions, with all these documents and their adapters.
    """
    texts = {document.id: document.text for document in documents("eval")}
    entities = many_entities(count)
    passages = [
        task_passage(e, "eval" if document_id(e) in texts else "train", text=text)
        for e in entities
        for text in (texts.get(document_id(e), ""),)
    ]
    with _library(path) as library:
        model = LlamaForCausalLM.from_pretrained(model_path(), dtype=torch.float32)
        tokenizer = PreTrainedTokenizerFast.from_pretrained(model_path())
        PRAG(model, tokenizer, library, settings=SETTINGS).encode(passages)
        found = tuple(
            EvaluationDocument(passage.id, passage.text, passage.title, entity.kind)
            for entity, passage in zip(entities, passages, strict=True)
        )
        questions = tiny_suite(QUESTIONS_PER_TASK).questions
        return Suite("the tiny world", questions, found).with_library(library.list())


def measure(path: Path, suite: Suite, count: int, output: Path) -> Results:
    """Asks every system among the first so many documents; resumes."""
    first = Suite(suite.name, suite.questions, suite.documents[:count])
    systems = [System("oracle"), System("prag+lag")]
    systems += [System(mode, library_size=count) for mode in ROUTED]
    systems += [
        System(mode, library_size=count, score=score)
        for mode in ("spectr", "lag")
        for score in OTHER_SCORES
    ]
    texts = [f"{document.title}\n{document.text}" for document in first.documents]
    with LAGEngine.from_pretrained(TINY, library=path) as engine:
        experiment = Experiment(engine, first, systems, retrievers=[BM25Retriever(texts)])
        return experiment.run(output / f"results-{count}.jsonl", batch=50)


def _library(path: Path) -> AdapterLibrary:
    """The library, with the task adapters if it is new."""
    if path.exists():
        return AdapterLibrary.open(path)
    library = AdapterLibrary.create(path, base_model=model_path(), base_name=TINY)
    library.add_many([adapters_path() / "tasks" / name for name in (*TASKS, TOOL_ADAPTER)])
    return library


def main(arguments: Sequence[str] | None = None) -> None:
    """Encodes, measures and reports."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="for the library")
    parser.add_argument("output", type=Path, help="for results and report")
    parser.add_argument("--size", type=int, action="append", help="repeatable; at most 2,000")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    given.output.mkdir(parents=True, exist_ok=True)
    sizes = sorted(given.size or SIZES)
    suite = encode(given.folder, sizes[-1])
    found = [measure(given.folder, suite, n, given.output) for n in sizes]
    asked = "".join(f" --size {size}" for size in sizes)
    command = f"python -m lag_engine.tiny.library_sizes LIBRARY OUTPUT{asked}"
    page = write_report(found[::-1], given.output, command=command)
    Console().print(f"Report: {page}", highlight=False)


if __name__ == "__main__":
    main()
