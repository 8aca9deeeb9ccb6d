"""A byte-level tokenizer with a chat template, made in code, and tiny models that speak it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from lag_engine.adapters.library import AdapterLibrary
from lag_engine.adapters.peft_format import LoraModule, PeftAdapter
from lag_engine.model.engine import LAGEngine
from lag_engine.model.generation import Row
from lag_engine.model.prompts import PromptEncoder
from lag_engine.model.requests import RequestBuilder

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


def with_tokens(tokenizer: PreTrainedTokenizerFast, **is_special: bool) -> PreTrainedTokenizerFast:
    """The tokenizer with added tokens; special ones are never text."""
    for token, special in is_special.items():
        tokenizer.add_tokens([AddedToken(token, special=special, normalized=False)])
    return tokenizer


_TURNS = (
    "{{ bos_token }}{% if tools %}<|system|>{{ tools | tojson }}<|end|>{% endif %}"
    "{% for m in messages %}<|{{ 'user' if m['role'] == 'tool' else m['role'] }}|>"
    "{{ m['content'] }}CALLS<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>THOUGHT{% endif %}"
)
_OBJECT = (
    '{"name": {{ c["function"]["name"] | tojson }}, '
    '"KEY": {{ c["function"]["arguments"] | tojson }}}'
)
_CALLS = {
    "hermes": "{% for c in m['tool_calls'] or [] %}<tool_call>\n"
    + _OBJECT
    + "\n</tool_call>{% endfor %}",
    "llama": "{% for c in m['tool_calls'] or [] %}" + _OBJECT + "{% endfor %}",
    "mistral": "{% if m['tool_calls'] %}[TOOL_CALLS] [{% for c in m['tool_calls'] %}"
    "{{ ', ' if not loop.first }}" + _OBJECT + "{% endfor %}]{% endif %}",
}


def tool_template(family: str, *, thought: str = "") -> str:
    """A short chat template that shows tools and writes calls as a family of models does.

    `thought` is what the generation prompt opens; any mentions the think markers.
    """
    key = "parameters" if family == "llama" else "arguments"
    template = _TURNS.replace("CALLS", _CALLS[family].replace("KEY", key))
    return template.replace("THOUGHT", thought)


WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tells the weather.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "maxLength": 12},
                "days": {"type": "integer", "minimum": 1, "maximum": 14},
                "unit": {"enum": ["°C", "°F"]},
            },
            "required": ["city", "unit"],
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "get_time", "description": "Tells the time."}}


@pytest.fixture(scope="session")
def tools() -> list[dict]:
    """Two tools: one with arguments, one without."""
    return [WEATHER, CLOCK]


@pytest.fixture(scope="session")
def tool_tokenizers() -> dict[str, PreTrainedTokenizerFast]:
    """A tokenizer for each family of tool formats, and variants of their markers."""
    make = make_tokenizer
    hermes, llama, mistral = (tool_template(f) for f in ("hermes", "llama", "mistral"))
    markers = {"<tool_call>": False, "</tool_call>": False}
    return {
        "hermes, markers spelled": make(chat_template=hermes),
        "hermes, markers added": with_tokens(make(chat_template=hermes), **markers),
        "hermes, markers special": with_tokens(
            make(chat_template=hermes), **dict.fromkeys(markers, True)
        ),
        "hermes, reasoning": make(
            chat_template=tool_template("hermes", thought="{# <think> </think> #}")
        ),
        "hermes, reasoning opened": with_tokens(
            make(chat_template=tool_template("hermes", thought="<think>\n{# </think> #}")),
            **{"<think>": True, "</think>": True},
        ),
        "llama": make(chat_template=llama),
        "llama, tag special": with_tokens(make(chat_template=llama), **{"<|python_tag|>": True}),
        "mistral": make(chat_template=mistral),
        "mistral, marker special": with_tokens(
            make(chat_template=mistral), **{"[TOOL_CALLS]": True}
        ),
    }


class Writer:
    """Writes answers without a model: random logits, led to a beginning of the test's choice."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        config = SimpleNamespace(eos_token_id=tokenizer.eos_token_id)
        self.tokenizer = tokenizer
        self.size = len(tokenizer) + 3
        prompts = PromptEncoder(tokenizer, context_length=None, vocabulary_size=self.size)
        self.requests = RequestBuilder(
            SimpleNamespace(generation_config=config), tokenizer, prompts=prompts, library=None
        )

    def row(self, prompt="Who?", **options) -> Row:
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        request = self.requests.one(messages, "base", {"max_new_tokens": 900, **options})
        return Row(request, self.tokenizer)

    def write(self, lead: str = "", *, seed: int = 0, prompt="Who?", **options):
        """The generation, and what was given out on the way."""
        row = self.row(prompt, **options)
        leading = self.tokenizer(lead, add_special_tokens=False)["input_ids"] if lead else []
        generator = torch.Generator().manual_seed(seed)
        deltas = []
        while row.finish_reason is None:
            logits = torch.randn(self.size, generator=generator) * 2
            if len(row.token_ids) < len(leading):
                logits[leading[len(row.token_ids)]] += 1000
            scores = row.chooser.scores(logits, row.token_ids)
            deltas.append(row.feed(int(scores.argmax())))
        return row.generation(), deltas


@pytest.fixture(scope="session")
def writers(tool_tokenizers) -> dict[str, Writer]:
    """One for each of `tool_tokenizers`."""
    return {name: Writer(tokenizer) for name, tokenizer in tool_tokenizers.items()}


@pytest.fixture(scope="session")
def make_tokenizers() -> Callable[[str], PreTrainedTokenizerFast]:
    """Makes the byte tokenizer with a chat template of the test's."""
    return lambda template: make_tokenizer(chat_template=template)


@pytest.fixture(scope="session")
def make_writer() -> type[Writer]:
    """For other tokenizers."""
    return Writer
