"""A pico model with the tiny world's tokenizer, a library for it, and passages that it can read."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from lag_engine.adapters import AdapterLibrary
from lag_engine.documents.passages import Passage, QuestionAnswer
from lag_engine.documents.prag import PRAG
from lag_engine.documents.prag_settings import PRAGSettings
from lag_engine.tiny.tokenizer import build_tokenizer

FAST = PRAGSettings(learning_rate=0.02, epochs=3, alpha=4)
"""Settings under which a pico model learns something at once."""


class Pico(NamedTuple):
    model: LlamaForCausalLM
    tokenizer: PreTrainedTokenizerFast


@pytest.fixture(scope="session")
def tokenizer():
    return build_tokenizer()


def build_model(tokenizer) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.2,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="session")
def build_pico(tokenizer):
    """Builds a new model, always the same."""
    return lambda: Pico(build_model(tokenizer), tokenizer)


@pytest.fixture
def pico(build_pico) -> Pico:
    return build_pico()


@pytest.fixture(scope="session")
def model(tmp_path_factory, build_pico):
    """The folder of a pico model and its tokenizer."""
    path = tmp_path_factory.mktemp("model") / "pico"
    pico = build_pico()
    pico.model.save_pretrained(path)
    pico.tokenizer.save_pretrained(path)
    return path


@pytest.fixture
def library(tmp_path, pico):
    with AdapterLibrary.create(
        tmp_path / "library", base_model=pico.model, base_name="pico"
    ) as opened:
        yield opened


@pytest.fixture(scope="session")
def make_passage():
    """Builds passage `p<i>`; the more pairs, the more sequences."""
    return _make_passage


def _make_passage(i: int, *, pairs: int = 3, rewrites: int = 1, words: str = "") -> Passage:
    names = ("Rosa Sinclair", "Ada Brandt", "Cobalt Energy", "Amber Wager", "Jonas Valdez")
    subject = names[i % len(names)]
    text = f"{subject} was born in the year {1900 + i}. {words}".strip()
    return Passage(
        f"p{i}",
        text,
        subject,
        tuple(
            QuestionAnswer(f"What of {subject} is fact {j}?", f"It is {1900 + i + j}.")
            for j in range(pairs)
        ),
        tuple(f"In {1900 + i} {subject} was born, says {j}." for j in range(rewrites)),
    )


@pytest.fixture
def prag(pico, library):
    """Builds an encoder with fast settings, or the given ones."""

    def make(settings: PRAGSettings = FAST, **options) -> PRAG:
        options = {"library": library, "progress": False, **options}
        return PRAG(pico.model, pico.tokenizer, settings=settings, **options)

    return make


@pytest.fixture
def deltas(library):
    """Reads an adapter's dense updates, by module."""

    def read(name: str, library: AdapterLibrary = library) -> dict[str, torch.Tensor]:
        forms = library.snapshot().forms(name)
        return {module: form.B.mT @ form.A for module, form in forms.items()}

    return read
