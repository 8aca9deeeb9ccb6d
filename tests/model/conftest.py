"""A byte-level tokenizer with a chat template, made in code, and tiny models that speak it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from lag_engine.adapters.library import AdapterLibrary
from lag_engine.adapters.peft_format import LoraModule, PeftAdapter
from lag_engine.model.engine import LAGEngine

SPECIAL = ("<pad>", "<s>", "</s>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>")
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] not in ['user', 'assistant', 'system'] %}"
    "{{ raise_exception('unknown role ' + m['role']) }}{% endif %}"
    "<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def make_tokenizer(*, chat_template: str | None = CHAT_TEMPLATE) -> PreTrainedTokenizerFast:
    """One token a byte, so that a character of several bytes arrives in pieces."""
    pieces = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(list(SPECIAL))
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", vocabulary["<s>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        chat_template=chat_template,
        clean_up_tokenization_spaces=False,
    )


def build_text_model(
    *, context: int = 256, intermediate: int = 64, seed: int = 0
) -> PreTrainedModel:
    """A random Llama of hidden size 32 over the byte vocabulary; its end token is `</s>`."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(SPECIAL) + 256,
        hidden_size=32,
        intermediate_size=intermediate,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        initializer_range=0.4,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="session")
def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Shared, and never changed by a test."""
    return make_tokenizer()


@pytest.fixture
def text_model() -> PreTrainedModel:
    """A fresh one for each test."""
    return build_text_model()


TEXT_TARGETS = {
    "task": ("self_attn.q_proj", "self_attn.o_proj", "mlp.down_proj"),
    "knowledge": ("mlp.gate_proj", "mlp.down_proj"),
}


def make_random_adapter(
    model: PreTrainedModel, kind: str, seed: int, *, scaling: float = 2.0
) -> PeftAdapter:
    """An adapter of the kind's target modules, its rank between 1 and 4."""
    generator = torch.Generator().manual_seed(seed)
    rank = 1 + seed % 4
    modules = {}
    for name, module in model.named_modules():
        if name.endswith(TEXT_TARGETS[kind]):
            d_out, d_in = module.weight.shape
            modules[name] = LoraModule(
                torch.randn(rank, d_in, generator=generator) / d_in**0.5,
                torch.randn(d_out, rank, generator=generator) / rank**0.5,
                scaling,
            )
    return PeftAdapter(modules, base_model=None, config={}, source="")


def fill_library(library: AdapterLibrary, model: PreTrainedModel, *, tasks: int, documents: int):
    """Adds task0, task1, ... and doc0, doc1, ..."""
    for i in range(tasks):
        library.add(make_random_adapter(model, "task", i), name=f"task{i}", kind="task")
    for i in range(documents):
        adapter = make_random_adapter(model, "knowledge", 100 + i)
        library.add(adapter, name=f"doc{i}", kind="knowledge", document_id=f"d{i}")


@pytest.fixture
def text_library(tmp_path, text_model) -> Iterator[AdapterLibrary]:
    """Four task and six document adapters of `text_model`, open for writing."""
    with AdapterLibrary.create(tmp_path / "library", base_model=text_model) as library:
        fill_library(library, text_model, tasks=4, documents=6)
        yield library


@pytest.fixture
def engine(text_model, byte_tokenizer, text_library) -> Iterator[LAGEngine]:
    """An engine over `text_model` and `text_library`."""
    with LAGEngine(text_model, byte_tokenizer, text_library) as engine:
        yield engine


@pytest.fixture
def random_adapter() -> Callable[..., PeftAdapter]:
    """Makes an adapter from a seed."""
    return make_random_adapter


@pytest.fixture
def make_text_model() -> Callable[..., PreTrainedModel]:
    """Makes a model that speaks the byte tokenizer's vocabulary."""
    return build_text_model


@pytest.fixture(scope="session")
def tokenizer_without_begin() -> PreTrainedTokenizerFast:
    """The byte tokenizer with neither a begin token nor a chat template."""
    tokenizer = make_tokenizer(chat_template=None)
    tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer
