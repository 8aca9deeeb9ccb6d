"""The start of the tool adapter: a model that cannot copy does, and is itself unchanged."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from lag_engine.tiny.adapters import foreign_task
from lag_engine.tiny.copying import POSITION_HEADS, copying_start
from lag_engine.tiny.shipped import model_path
from lag_engine.tiny.tasks import TASKS
from lag_engine.tiny.tokenizer import build_tokenizer
from lag_engine.tiny.tool_rows import ToolRows
from lag_engine.tiny.updates import applied

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(
        model_path(), dtype=torch.float32, attn_implementation="eager"
    ).eval()


@pytest.fixture(scope="module")
def rows():
    return ToolRows(build_tokenizer(), side="dev", seed=0)


@pytest.fixture(scope="module")
def start(model, rows):
    texts = [rows.case(rows.maker.case("call")).ids for _ in range(100)]
    foreign = [foreign_task(rows.corpus, task).ids for task in TASKS for _ in range(40)]
    modules = copying_start(model, texts, foreign, scaling=2.0, seed=0)
    return {name: (m.lora_A, m.scaling * m.lora_B) for name, m in modules.items()}


@torch.no_grad()
def copied_share(model, rows):
    hits = []
    for row in rows:
        ids = torch.tensor([row.ids])
        right = model(input_ids=ids).logits[0, :-1].argmax(-1) == ids[0, 1:]
        hits += right[torch.tensor(row.weights[1:]) > 0].tolist()
    return sum(hits) / len(hits)


def test_the_start_copies_and_leaves_the_base_as_it_was(model, rows, start):
    asked = [row for row in (rows.copied() for _ in range(80)) if len(row.ids) > 60]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    alone = copied_share(model, asked)
    with applied(model, start):
        assert copied_share(model, asked) > 1.2 * alone
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@torch.no_grad()
def test_heads_of_the_first_layer_look_where_they_are_told(model, rows, start):
    row = rows.case(rows.maker.case("call"))
    with applied(model, start):
        seen = model(input_ids=torch.tensor([row.ids]), output_attentions=True).attentions[0][0]
    for head, distance in POSITION_HEADS.items():
        shares = [seen[head].diagonal(-d)[8:].mean().item() for d in range(6)]
        assert shares.index(max(shares)) == distance
        assert max(shares) > 0.5
