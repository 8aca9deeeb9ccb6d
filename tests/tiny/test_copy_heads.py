"""The base's copy heads: it repeats what it reads, and is otherwise the narrow model it was."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from lag_engine.adapters import LoraModule, PeftAdapter
from lag_engine.tiny.copy_heads import widened, widened_adapter
from lag_engine.tiny.shipped import model_path
from lag_engine.tiny.tokenizer import build_tokenizer
from lag_engine.tiny.tool_rows import ToolRows, padded_rows

WIDTH, WORDS = 64, 60


@pytest.fixture(scope="module")
def narrow():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=WORDS,
        hidden_size=WIDTH,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=2,
        bos_token_id=1,
        pad_token_id=0,
        initializer_range=0.5,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def texts():
    generator = torch.Generator().manual_seed(1)
    return [[1, *torch.randint(7, WORDS, (40,), generator=generator).tolist()] for _ in range(8)]


@pytest.fixture(scope="module")
def wide(narrow, texts):
    return widened(narrow, texts, seed=0)


def same(found, wanted):
    """Whether they differ by less than two hundredths of their size."""
    return (found - wanted).norm() < 0.02 * wanted.norm()


@torch.no_grad()
def test_without_what_the_new_heads_write_it_is_the_old_model(narrow, wide, texts):
    ids = torch.tensor(texts)
    hidden = wide.model(ids).last_hidden_state[..., :WIDTH]
    assert same(hidden @ narrow.lm_head.weight.T, narrow(ids).logits)


@torch.no_grad()
def test_it_repeats_a_text_that_the_old_model_does_not(narrow, wide, texts):
    ids = torch.tensor([[*text, *text[1:]] for text in texts])
    again = slice(44, 80)  # three tokens of the second time have been read

    def share(model):
        return (model(ids).logits[:, again].argmax(-1) == ids[:, 45:81]).float().mean()

    assert share(narrow) < 0.1
    assert share(wide) > 0.5


@torch.no_grad()
@pytest.mark.parametrize("name", ["self_attn.q_proj", "self_attn.o_proj", "mlp.down_proj"])
def test_an_adapter_of_the_old_model_updates_the_new_one_in_the_same_way(narrow, wide, texts, name):
    path = f"model.layers.1.{name}"
    torch.manual_seed(2)
    d_out, d_in = narrow.get_parameter(f"{path}.weight").shape
    adapter = PeftAdapter({path: LoraModule(torch.randn(4, d_in), torch.randn(d_out, 4), 0.5)})
    found = []
    for model, its in ((narrow, adapter), (wide, widened_adapter(adapter))):
        weight = model.get_parameter(f"{path}.weight")
        part = its.modules[path]
        update = part.scaling * part.lora_B @ part.lora_A
        assert update.shape == weight.shape
        weight += update
        found.append(model.model(torch.tensor(texts)).last_hidden_state[..., :WIDTH])
        weight -= update
    assert same(found[1], found[0])


@torch.no_grad()
def test_the_shipped_base_repeats_names_and_numbers_it_has_never_read():
    rows = ToolRows(build_tokenizer(), side="dev", seed=0)
    model = LlamaForCausalLM.from_pretrained(model_path(), dtype=torch.float32).eval()
    batch = padded_rows([rows.copied() for _ in range(16)])
    hits = model(batch.ids[:, :-1]).logits.argmax(-1) == batch.ids[:, 1:]
    assert hits[batch.weights[:, 1:] > 0].float().mean() > 0.8
