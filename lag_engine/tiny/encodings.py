"""The evaluation documents, encoded in the ways for which no adapters ship.

Run it with ``python -m lag_engine.tiny.encodings FOLDER``; stages that are there are skipped. It
makes, for ``lag evaluate``:

- ``library``: the shipped library with each document as a mixture of latent adapters (Poly-PRAG)
  besides, and in ``library/translator`` DyPRAG's translator, taught on other documents;
- ``plain``: an adapter for each document by the encoder of ``lag encode``, on questions and the
  base model's own answers;
- ``shuffled``: the same, but the answers name another document's values;
- ``together``: one adapter that was trained on the texts, questions and answers of all.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from lag_engine.adapters import AdapterLibrary
from lag_engine.documents import (
    PRAG,
    Passage,
    PolyPRAG,
    PRAGSettings,
    save_translator,
    train_translator,
)
from lag_engine.model.loading import TINY
from lag_engine.tiny import encoder_trials
from lag_engine.tiny.encoder_cases import other_entities, wrong_of
from lag_engine.tiny.shipped import (
    DocumentSplit,
    documents,
    library_path,
    model_path,
    world_entities,
)
from lag_engine.tiny.task_passages import task_passage
from lag_engine.tiny.world import Split

LAYERS = (1, 2)  # as the shipped document adapters
SETTINGS = replace(encoder_trials.PRAG_SETTINGS, layers=LAYERS)
LATENT_SETTINGS = replace(encoder_trials.LATENT_SETTINGS, layers=LAYERS)
TRANSLATOR_SETTINGS = replace(encoder_trials.TRANSLATOR_SETTINGS, epochs=20)

TRANSLATOR_DOCUMENTS = 100
TOGETHER_ROWS = 8
console = Console(highlight=False)


class Encodings:
    """Makes the parts in a folder.

    Args:
        folder: Where; what it has already stays.
        split: Whose documents.
        count: How many of them.

    Attributes:
        passages: The documents with their questions and answers.
        shuffled_passages: The same with answers that name another document's values.
    """

    def __init__(self, folder: Path, split: DocumentSplit = "eval", count: int = 200) -> None:
        torch.set_num_threads(1)
        self._folder = folder
        self._model = LlamaForCausalLM.from_pretrained(model_path(), dtype=torch.float32)
        self._tokenizer = PreTrainedTokenizerFast.from_pretrained(model_path())
        side: Split = "eval" if split == "eval" else "train"
        entities = world_entities(split)[:count]
        texts = [document.text for document in documents(split)[:count]]
        others = [entities[place] for place in wrong_of([entity.kind for entity in entities])]
        self.passages = [
            task_passage(entity, side, text=text)
            for entity, text in zip(entities, texts, strict=True)
        ]
        self.shuffled_passages = [
            task_passage(entity, side, text=text, told=other)
            for entity, text, other in zip(entities, texts, others, strict=True)
        ]

    def make(self) -> None:
        """All parts that are not there."""
        for stage in (self.plain, self.shuffled, self.together, self.library, self.translator):
            stage()

    def plain(self) -> None:
        """The documents' own questions and answers."""
        self._library("plain", lambda library: self._prag(library, self.passages))

    def shuffled(self) -> None:
        """Each document's questions with another's answers."""
        self._library("shuffled", lambda library: self._prag(library, self.shuffled_passages))

    def together(self) -> None:
        """One adapter for everything."""
        first, *others = self.passages
        pairs = tuple(pair for passage in self.passages for pair in passage.pairs)
        texts = tuple(passage.titled_text for passage in others)
        united = replace(first, id="together", pairs=pairs, rewrites=texts)
        settings = replace(SETTINGS, batch_size=TOGETHER_ROWS)
        self._library("together", lambda library: self._prag(library, [united], settings))

    def library(self) -> None:
        """The shipped library with Poly-PRAG's mixtures besides."""

        def encode(partial: Path) -> None:
            shutil.copytree(library_path(), partial)
            with AdapterLibrary.open(partial) as library:
                encoder = PolyPRAG(self._model, self._tokenizer, library, settings=LATENT_SETTINGS)
                encoder.encode(self.passages)

        self._stage("library", encode)

    def translator(self) -> None:
        """DyPRAG's, which learns from adapters of documents that nobody asks about."""
        taught = [task_passage(entity, "train") for entity in other_entities(TRANSLATOR_DOCUMENTS)]
        settings = replace(SETTINGS, shared_start=True)
        self._library("strangers", lambda library: self._prag(library, taught, settings))

        def train(partial: Path) -> None:
            with AdapterLibrary.open(self._folder / "strangers", read_only=True) as library:
                translator = train_translator(
                    self._model, self._tokenizer, library, taught, settings=TRANSLATOR_SETTINGS
                )
            save_translator(translator, partial)

        self._stage("library/translator", train)

    def _prag(
        self,
        library: AdapterLibrary,
        passages: Sequence[Passage],
        settings: PRAGSettings = SETTINGS,
    ) -> None:
        PRAG(self._model, self._tokenizer, library, settings=settings).encode(passages)

    def _library(self, name: str, encode: Callable[[AdapterLibrary], None]) -> None:
        def make(partial: Path) -> None:
            library = AdapterLibrary.create(partial, base_model=model_path(), base_name=TINY)
            with library:
                encode(library)

        self._stage(name, make)

    def _stage(self, name: str, make: Callable[[Path], None]) -> None:
        """Makes a folder whole or not at all."""
        target = self._folder / name
        if target.exists():
            return
        partial = self._folder / f"{Path(name).name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.parent.mkdir(parents=True, exist_ok=True)
        began = time.process_time()
        make(partial)
        partial.rename(target)
        console.print(f"{name}: {time.process_time() - began:.0f} CPU seconds")


def main() -> None:
    """Makes all parts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--split", choices=("dev", "eval"), default="eval")
    parser.add_argument("--documents", type=int, default=200)
    arguments = parser.parse_args()
    Encodings(arguments.folder, arguments.split, arguments.documents).make()


if __name__ == "__main__":
    main()
