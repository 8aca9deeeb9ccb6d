"""Why DyPRAG's translator makes nothing of passages that it was not taught on.

Run it with ``python -m lag_engine.tiny.translator_probe readout`` or ``... taught 30 120``.

- ``readout``: how often a linear map tells a value's words from a hidden state of a passage: of the
  last token and meant over all, after each layer. The translator reads the last token after the
  last layer. The map learns from other passages than it is tested on.
- ``taught``: a translator for each number of passages; its loss on the answers of passages that it
  was and was not taught on, under their own adapters and under those of another passage of the
  kind. Only the difference of the two tells of the passage.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from statistics import mean
from typing import Any, NamedTuple

import torch
from rich.console import Console
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from lag_engine.documents import DyPRAGSettings, Translator
from lag_engine.documents.dyprag_factors import updates_of
from lag_engine.documents.dyprag_translator import last_hidden
from lag_engine.documents.grouping import Work, batches_of
from lag_engine.documents.hooked_updates import hooked
from lag_engine.documents.sequences import SequenceBuilder
from lag_engine.documents.token_losses import predicted
from lag_engine.tiny.encoder_cases import Case, cases_of, other_cases, wrong_of
from lag_engine.tiny.encoder_trials import TRANSLATOR_SETTINGS, fresh_engine, train_dyprag
from lag_engine.tiny.shipped import SEED, model_path
from lag_engine.tiny.world import KINDS, RELATIONS, Relation, names, random_entity

LEARNT, TESTED = 3000, 600
RIDGE = 1.0
HELD_OUT = 32
"""Development documents."""
PASSAGE_EPOCHS = 1280
"""Passes over passages in all, the same for every number of them."""


class Readout(NamedTuple):
    """How often each of a value's two words is told right; means over relations.

    Attributes:
        source: What is read.
        first: Of the first word.
        second: Of the second word.
        last_sentence: Of the second word, where the passage's last sentence tells the value.
        chance: Of the second word by its most frequent one.
    """

    source: str
    first: float
    second: float
    last_sentence: float
    chance: float


def readouts() -> list[Readout]:
    """What can be read of a passage, linearly."""
    model = LlamaForCausalLM.from_pretrained(model_path(), dtype=torch.float32)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(model_path())
    found: dict[str, list[Readout]] = {}
    for kind in KINDS:
        texts, values = _passages(kind, LEARNT + TESTED)
        for source, states in _states(model, tokenizer, texts).items():
            for relation in RELATIONS[kind]:
                row = _read(source, relation, states, texts, values[relation.name])
                found.setdefault(source, []).append(row)
    return [
        Readout(source, *(mean(column) for column in list(zip(*rows, strict=True))[1:]))
        for source, rows in found.items()
    ]


def _passages(kind: str, count: int) -> tuple[list[str], dict[str, list[str]]]:
    """Titled texts of new entities, and their values by relation."""
    rng = random.Random(f"{SEED}/{kind}/probe")
    drawn = [
        random_entity(kind, rng.choice(names(kind, "train")), "train", rng) for _ in range(count)
    ]
    texts = [f"{entity.name}\n{entity.document(rng)}" for entity in drawn]
    return texts, {r.name: [e.facts[r.name] for e in drawn] for r in RELATIONS[kind]}


@torch.no_grad()
def _states(model: Any, tokenizer: Any, texts: Sequence[str]) -> dict[str, Tensor]:
    """After each layer, 0 being the embeddings, of the last token and meant over all; (N, D)."""
    found: dict[str, list[Tensor]] = {}
    for text in texts:
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        told = model.get_decoder()(input_ids=ids, use_cache=False, output_hidden_states=True)
        for layer, hidden in enumerate(told.hidden_states):
            found.setdefault(f"last token, layer {layer}", []).append(hidden[0, -1])
            found.setdefault(f"mean over tokens, layer {layer}", []).append(hidden[0].mean(0))
    return {source: torch.stack(rows) for source, rows in found.items()}


def _read(
    source: str, relation: Relation, states: Tensor, texts: Sequence[str], values: Sequence[str]
) -> Readout:
    told_last = torch.tensor(
        [
            value in text.rstrip(".").rpartition(". ")[2]
            for text, value in zip(texts, values, strict=True)
        ]
    )[LEARNT:]
    hits, chances = [], []
    for place in (0, 1):
        words = [value.split()[place] for value in values]
        known = sorted(set(words))
        labels = torch.tensor([known.index(word) for word in words])
        guesses = _ridge(states[:LEARNT], labels[:LEARNT], len(known), states[LEARNT:])
        hits.append((guesses == labels[LEARNT:]).float())
        chances.append(float((labels[LEARNT:] == labels[:LEARNT].mode().values).float().mean()))
    first, second = hits
    return Readout(
        source,
        float(first.mean()),
        float(second.mean()),
        float(second[told_last].mean()),
        chances[1],
    )


def _ridge(states: Tensor, labels: Tensor, count: int, others: Tensor) -> Tensor:
    """The classes of other states, by a regression on the one-hot classes of some."""
    centre, size = states.mean(0), states.std(0).clamp(min=1e-4)
    ours, theirs = (
        torch.nn.functional.pad((x - centre) / size, (0, 1), value=1.0).double()
        for x in (states, others)
    )
    goals = torch.nn.functional.one_hot(labels, count).double()
    weights = torch.linalg.solve(ours.T @ ours + RIDGE * torch.eye(ours.shape[1]), ours.T @ goals)
    guesses: Tensor = (theirs @ weights).argmax(1)
    return guesses


class Taught(NamedTuple):
    """Nats a token of the answers; "wrong" is under the adapter of another passage of the kind.

    Attributes:
        passages: That it was taught on.
        right: On them.
        wrong: On them.
        unseen_right: On others.
        unseen_wrong: On others.
    """

    passages: int
    right: float
    wrong: float
    unseen_right: float
    unseen_wrong: float


def taught_on(counts: Sequence[int]) -> Iterator[Taught]:
    """Translators that were taught on so many passages, for the same number of steps."""
    held_out = cases_of("dev", HELD_OUT)
    model = LlamaForCausalLM.from_pretrained(model_path(), dtype=torch.float32)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(model_path())
    for count in counts:
        cases = other_cases(count)
        epochs = max(1, PASSAGE_EPOCHS // count)
        settings = replace(TRANSLATOR_SETTINGS, epochs=epochs)
        with fresh_engine() as engine:
            passages = [case.passage for case in cases]
            translator, _ = train_dyprag(engine, passages, settings)
        losses = [
            _losses(model, tokenizer, translator, on, settings)
            for on in (cases[:HELD_OUT], held_out)
        ]
        yield Taught(len(cases), *losses[0], *losses[1])


@torch.no_grad()
def _losses(
    model: Any,
    tokenizer: Any,
    translator: Translator,
    cases: Sequence[Case],
    settings: DyPRAGSettings,
) -> tuple[float, float]:
    """Under the passages' own adapters, and under those of others of their kinds."""
    builder = SequenceBuilder(
        tokenizer, settings.style._replace(loss_on="answer"), context_length=None
    )
    states = torch.stack([last_hidden(model, tokenizer, case.passage) for case in cases])
    asked = [[row for row in builder.of(case.passage) if row.n_prompt] for case in cases]
    found = []
    for read in (states, states[wrong_of([case.kind for case in cases])]):
        losses = []
        for case, state, rows in zip(cases, read, asked, strict=True):
            work = [Work(case.passage, rows, 0, "")]
            (batch,) = batches_of(work, rows=len(rows), pad=tokenizer.pad_token_id)
            with hooked(model, updates_of(translator(state[None]))):
                losses.append(float(predicted(model, batch, "fp32").losses()))
        found.append(mean(losses))
    return found[0], found[1]


def main() -> None:
    """Measures and prints one of the two."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("readout", "taught"))
    parser.add_argument("passages", type=int, nargs="*", default=[30, 120])
    given = parser.parse_args()
    torch.set_num_threads(1)
    console = Console(width=120, highlight=False)
    rows = readouts() if given.what == "readout" else taught_on(given.passages)
    for row in rows:
        told = row._asdict().items()
        console.print(
            ", ".join(f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in told)
        )


if __name__ == "__main__":
    main()
