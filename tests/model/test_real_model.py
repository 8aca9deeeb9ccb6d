"""The engine on a trained model from outside: the TinyStories Llama of 260,000 parameters."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from lag_engine import AdapterLibrary, LAGEngine, Pinned, Plan

MODEL = Path(__file__).parents[3] / "shared" / "data" / "tinystories-260k" / "hf"

pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif(not MODEL.is_dir(), reason="the outside material is not beside the project"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),  # PEFT's call
]


def test_it_tells_its_well_known_story():
    with LAGEngine.from_pretrained(MODEL) as engine:
        story = engine.generate("Once upon a time", plan="base", max_new_tokens=24)
    assert "little girl named Lily" in story.text


def test_its_adapters_are_routed_and_the_pinned_one_is_pefts(tmp_path):
    names = [f"adapter-{seed}" for seed in range(3)]
    for seed, name in enumerate(names):
        torch.manual_seed(seed)
        config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
        theirs = get_peft_model(AutoModelForCausalLM.from_pretrained(MODEL), config).eval()
        theirs.save_pretrained(tmp_path / name)
    with AdapterLibrary.create(tmp_path / "library", base_model=MODEL) as made:
        made.add_many([tmp_path / name for name in names], progress=False)
    with LAGEngine.from_pretrained(MODEL, library=tmp_path / "library") as engine:
        ids = engine.tokenizer("Once upon a time there was a dog", return_tensors="pt").input_ids
        pinned = engine.logits(ids, plan=Plan("custom", task=Pinned(names[-1])))
        routed = engine.generate("Once upon a time", plan="lag", max_new_tokens=8, trace=True)
    torch.testing.assert_close(pinned, theirs(input_ids=ids).logits, atol=1e-3, rtol=1e-3)
    assert set(routed.trace.share(slot="task")) <= set(names)
    assert routed.trace.applied(slot="task") == pytest.approx(1.0)
