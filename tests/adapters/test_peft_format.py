"""Reading and writing PEFT folders, against PEFT's own forward."""

from __future__ import annotations

import json

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from lag_engine.adapters import AdapterLibrary, LoraModule, PeftAdapter, read_peft, write_peft
from lag_engine.errors import AdapterFormatError, DeadAdapterWarning, UnknownFieldWarning

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

CONV1D = pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False:UserWarning")


def theirs(make_model, family, folder, tokens):
    """The logits of PEFT's own forward."""
    with torch.no_grad():
        return PeftModel.from_pretrained(make_model(family), folder).double()(tokens).logits


def ours(make_model, family, adapter, tokens):
    """The logits of the base model with the dense updates added by hand."""
    model = make_model(family).double()
    with torch.no_grad():
        for path, part in adapter.modules.items():
            module = model.get_submodule(path)
            update = part.scaling * part.lora_B.double() @ part.lora_A.double()  # (D_out, D_in)
            is_transposed = type(module).__name__ == "Conv1D"
            module.weight += update.T if is_transposed else update
        return model(tokens).logits


CASES = {
    "plain": ("llama", {}),
    "duplicates": ("llama", {"target_modules": ["q_proj", "q_proj", "v_proj"]}),
    "regex": ("llama", {"target_modules": r".*layers\.1.*\.(q_proj|down_proj)"}),
    "all-linear": ("llama", {"target_modules": "all-linear"}),
    "default targets": ("llama", {"target_modules": None}),
    "rslora": ("llama", {"use_rslora": True}),
    "rank and alpha patterns": (
        "llama",
        {
            "rank_pattern": {r"layers\.1\.self_attn\.q_proj": 2, "v_proj": 6},
            "alpha_pattern": {r"^model.layers.0.self_attn.v_proj": 3, "q_proj": 32},
        },
    ),
    "rslora with rank pattern": ("llama", {"use_rslora": True, "rank_pattern": {"v_proj": 1}}),
    "layers_to_transform": ("llama", {"layers_to_transform": [1]}),
    "layers_to_transform with pattern": (
        "llama",
        {"layers_to_transform": 0, "layers_pattern": "layers"},
    ),
    "exclude_modules": ("llama", {"exclude_modules": ["layers.0.self_attn.q_proj"]}),
    "modules that the model lacks": ("llama", {"target_modules": ["q_proj", "c_attn"]}),
    "biased projections": ("qwen2", {}),
    "rank above the width": ("gemma", {"r": 40, "target_modules": ["k_proj"]}),
    "conv1d": ("gpt2", {"target_modules": ["c_attn", "c_fc"], "fan_in_fan_out": True}),
    "conv1d with the wrong flag": ("gpt2", {"target_modules": ["c_attn"], "fan_in_fan_out": False}),
}


@CONV1D
@pytest.mark.parametrize("case", CASES)
def test_reading_gives_what_peft_computes(case, make_model, peft_folder, token_ids):
    family, config = CASES[case]
    folder = peft_folder(family, **config)
    expected = theirs(make_model, family, folder, token_ids())
    found = ours(make_model, family, read_peft(folder), token_ids())
    torch.testing.assert_close(found, expected, atol=1e-8, rtol=1e-8)
    untouched = make_model(family).double()(token_ids()).logits
    assert not torch.allclose(expected, untouched, atol=1e-3)


@CONV1D
@pytest.mark.parametrize("case", CASES)
def test_export_from_a_library_gives_what_peft_computed(
    case, make_model, peft_folder, token_ids, tmp_path
):
    family, config = CASES[case]
    folder = peft_folder(family, **config)
    expected = theirs(make_model, family, folder, token_ids())
    with AdapterLibrary.create(tmp_path / "library", base_model=make_model(family)) as library:
        library.add(folder, name="a")
        library.export("a", tmp_path / "exported")
    found = theirs(make_model, family, tmp_path / "exported", token_ids())
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_conv1d_exports_with_the_flag_that_peft_expects(make_model, peft_folder, tmp_path):
    folder = peft_folder("gpt2", target_modules=["c_attn"], fan_in_fan_out=True)
    with AdapterLibrary.create(tmp_path / "library", base_model=make_model("gpt2")) as library:
        library.add(folder, name="a")
        library.export("a", tmp_path / "exported")
    assert json.loads((tmp_path / "exported/adapter_config.json").read_text())["fan_in_fan_out"]


def test_a_wrong_flag_changes_nothing_that_is_read(peft_folder, edit_config):
    folder = peft_folder("gpt2", target_modules=["c_attn"], fan_in_fan_out=True)
    right = read_peft(folder)
    wrong = read_peft(edit_config(folder, fan_in_fan_out=False))
    for module, part in right.modules.items():
        assert part.lora_A.shape == (4, 32)
        assert part.lora_B.shape == (96, 4)
        assert torch.equal(part.lora_B, wrong.modules[module].lora_B)


def test_paths_are_those_of_the_base_model(peft_folder, make_model):
    adapter = read_peft(peft_folder())
    names = {name for name, _ in make_model().named_modules()}
    assert adapter.modules.keys() <= names
    assert adapter.source.endswith("adapter")


def test_an_old_config_with_null_base_model_and_few_fields_is_read(peft_folder):
    folder = peft_folder()
    fields = {"base_model_name_or_path": None, "peft_type": "LORA", "r": 4, "lora_alpha": 8}
    fields["target_modules"] = ["q_proj", "v_proj"]
    (folder / "adapter_config.json").write_text(json.dumps(fields))
    adapter = read_peft(folder)
    assert adapter.base_model is None
    assert {part.scaling for part in adapter.modules.values()} == {2.0}


def test_an_unknown_field_that_is_unset_is_read_over(peft_folder, edit_config):
    folder = edit_config(peft_folder(), use_next_years_idea=False, future_config=None)
    assert read_peft(folder).modules


def test_an_unknown_field_that_is_set_is_named_in_a_warning(peft_folder, edit_config):
    folder = edit_config(peft_folder(), use_next_years_idea=True)
    with pytest.warns(UnknownFieldWarning, match="use_next_years_idea"):
        assert read_peft(folder).modules


def test_a_dead_adapter_is_accepted_with_a_warning(peft_folder, edit_weights):
    def kill(tensors):
        for name in tensors:
            if "lora_B" in name:
                tensors[name].zero_()

    folder = edit_weights(peft_folder(), kill)
    with pytest.warns(DeadAdapterWarning, match="changes nothing"):
        assert read_peft(folder).is_dead


def test_keys_with_an_adapter_name_or_wrapper_prefix_are_understood(peft_folder, edit_weights):
    folder = peft_folder()
    plain = read_peft(folder)

    def rename(tensors):
        for name in list(tensors):
            new = name.replace("_A.weight", "_A.default.weight")
            new = new.replace("_B.weight", "_B.default.weight").replace("base_model.model.", "")
            tensors[f"_orig_mod.{new}"] = tensors.pop(name)

    assert read_peft(edit_weights(folder, rename)).modules.keys() == plain.modules.keys()


@pytest.mark.parametrize("padding", range(1, 9))
def test_data_may_begin_at_any_byte(peft_folder, padding):
    folder = peft_folder()
    path = folder / "adapter_model.safetensors"
    before, content = read_peft(folder), path.read_bytes()
    data = 8 + int.from_bytes(content[:8], "little")
    header = content[8:data] + b" " * padding
    path.write_bytes(len(header).to_bytes(8, "little") + header + content[data:])
    for module, part in read_peft(folder).modules.items():
        assert torch.equal(part.lora_A, before.modules[module].lora_A)
        assert torch.equal(part.lora_B, before.modules[module].lora_B)


def test_a_pickle_is_read_only_on_request_and_equals_the_safetensors(peft_folder):
    folder = peft_folder()
    expected = read_peft(folder)
    weights = folder / "adapter_model.safetensors"
    torch.save(load_file(weights), folder / "adapter_model.bin")
    weights.unlink()
    with pytest.raises(AdapterFormatError, match="allow_pickle=True"):
        read_peft(folder)
    found = read_peft(folder, allow_pickle=True)
    for module, part in expected.modules.items():
        assert torch.equal(found.modules[module].lora_A, part.lora_A)


def test_writing_keeps_mixed_ranks_and_scalings(tmp_path, make_model, token_ids):
    generator = torch.Generator().manual_seed(0)
    modules = {
        f"model.layers.{layer}.self_attn.q_proj": LoraModule(
            torch.randn(rank, 32, generator=generator),
            torch.randn(32, rank, generator=generator),
            scaling,
        )
        for layer, rank, scaling in ((0, 3, 0.3), (1, 5, 1.0))
    }
    adapter = PeftAdapter(modules)
    write_peft(tmp_path / "written", adapter)
    back = read_peft(tmp_path / "written")
    for module, part in modules.items():
        assert back.modules[module].scaling == pytest.approx(part.scaling)
        assert torch.equal(back.modules[module].lora_B, part.lora_B)
    torch.testing.assert_close(
        theirs(make_model, "llama", tmp_path / "written", token_ids()),
        ours(make_model, "llama", adapter, token_ids()),
        atol=1e-8,
        rtol=1e-8,
    )


def test_writing_over_an_adapter_is_refused(peft_folder, make_adapter):
    folder = peft_folder()
    before = (folder / "adapter_config.json").read_text()
    with pytest.raises(AdapterFormatError, match="without an adapter"):
        write_peft(folder, make_adapter())
    assert (folder / "adapter_config.json").read_text() == before
