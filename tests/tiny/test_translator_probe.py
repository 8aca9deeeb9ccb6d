"""The readout finds what is linear and no more, and an untaught translator tells nothing."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from lag_engine.adapters import ModuleShape
from lag_engine.adapters.base_model import describe_base
from lag_engine.documents import Passage, Translator
from lag_engine.documents.dyprag_translator import last_hidden, shape_for
from lag_engine.tiny import translator_probe as probe
from lag_engine.tiny.encoder_cases import cases_of
from lag_engine.tiny.encoder_trials import TRANSLATOR_SETTINGS
from lag_engine.tiny.shipped import model_path
from lag_engine.tiny.world import KINDS


@pytest.fixture(scope="module")
def model():
    return LlamaForCausalLM.from_pretrained(model_path(), dtype=torch.float32)


@pytest.fixture(scope="module")
def tokenizer():
    return PreTrainedTokenizerFast.from_pretrained(model_path())


def test_a_class_that_is_linear_in_the_states_is_read_and_a_random_one_is_not():
    states = torch.randn(600, 8, generator=torch.Generator().manual_seed(0))
    labels = (states @ torch.randn(8, 4, generator=torch.Generator().manual_seed(1))).argmax(1)
    for truth, low, high in (
        (labels, 0.7, 1.0),
        (labels[torch.randperm(600, generator=torch.Generator().manual_seed(2))], 0.0, 0.5),
    ):
        found = probe._ridge(states[:400], truth[:400], 4, states[400:])
        assert low <= (found == truth[400:]).float().mean() <= high


@pytest.mark.parametrize("kind", KINDS)
def test_every_value_stands_in_its_passage(kind):
    texts, values = probe._passages(kind, 5)
    for row in values.values():
        assert all(value in text for value, text in zip(row, texts, strict=True))


def test_states_are_of_the_last_token_and_of_all_after_each_layer(model, tokenizer):
    states = probe._states(model, tokenizer, ["Acorn", "Acorn Bank"])
    assert len(states) == 2 * (model.config.num_hidden_layers + 1)
    assert {state.shape for state in states.values()} == {(2, model.config.hidden_size)}
    final = f"last token, layer {model.config.num_hidden_layers}"
    read = last_hidden(model, tokenizer, Passage("a", "Acorn Bank"))
    assert torch.allclose(states[final][1], read, atol=1e-5)


def test_an_untaught_translator_makes_no_difference_between_passages(model, tokenizer):
    module = "model.layers.1.mlp.up_proj"
    widths = ModuleShape(model.config.hidden_size, model.config.intermediate_size)
    shape = shape_for(
        describe_base(model),
        {module: widths},
        hidden_size=model.config.hidden_size,
        width=4,
        rank=2,
        scaling=1.0,
    )
    right, wrong = probe._losses(
        model, tokenizer, Translator(shape), cases_of("dev", 8)[:8], TRANSLATOR_SETTINGS
    )
    assert right == wrong > 0
