"""What cannot be read or applied exactly is refused by name, with what to do."""

from __future__ import annotations

import json

import pytest
import torch
from peft import AdaLoraConfig, IA3Config, get_peft_model

from lag_engine.adapters import LoraModule, PeftAdapter, read_peft, write_peft
from lag_engine.errors import AdapterError, AdapterFormatError, UnsupportedAdapterError

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

LFS_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


def assert_three_parts(error: AdapterError) -> None:
    assert error.expected
    assert error.found
    assert error.action
    assert str(error).startswith(error.expected)


@pytest.mark.parametrize(
    ("config", "word"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"target_modules": ["embed_tokens", "q_proj"]}, "embedding"),
        ({"trainable_token_indices": [1, 2]}, "trainable_token_indices"),
        ({"lora_bias": True}, "lora_bias"),
        ({"layer_replication": [[0, 2], [1, 2]]}, "layer_replication"),
        ({"alora_invocation_tokens": [3, 4]}, "aLoRA"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_peft_saves_beyond_plain_lora_is_refused_by_name(peft_folder, config, word):
    with pytest.raises(UnsupportedAdapterError, match=word) as caught:
        read_peft(peft_folder(**config))
    assert_three_parts(caught.value)


@pytest.mark.parametrize("bias", ["all", "lora_only"])
def test_trained_bias_is_refused(peft_folder, edit_config, bias):
    folder = peft_folder("qwen2", bias=bias)
    with pytest.raises(UnsupportedAdapterError, match="bias="):
        read_peft(folder)
    with pytest.raises(UnsupportedAdapterError, match="a trained bias"):
        read_peft(edit_config(folder, bias="none"))


def test_other_peft_types_are_refused_by_name(make_model, tmp_path):
    ia3 = IA3Config(target_modules=["q_proj"], feedforward_modules=[])
    adalora = AdaLoraConfig(target_modules=["q_proj"], total_step=10)
    for name, config in {"IA3": ia3, "ADALORA": adalora}.items():
        get_peft_model(make_model(), config).save_pretrained(tmp_path / name)
        with pytest.raises(UnsupportedAdapterError, match=name):
            read_peft(tmp_path / name)


@pytest.mark.parametrize(
    "field", ["target_parameters", "arrow_config", "use_qalora", "kasa_config"]
)
def test_every_variant_of_the_forward_is_refused(peft_folder, edit_config, field):
    with pytest.raises(UnsupportedAdapterError, match=field):
        read_peft(edit_config(peft_folder(), **{field: {"x": 1}}))


@pytest.mark.parametrize("init", ["pissa", "pissa_niter_4", "olora", "corda", "loftq", "lora_ga"])
def test_weights_over_a_changed_base_are_refused_with_the_way_to_convert_them(
    peft_folder, edit_config, init
):
    with pytest.raises(UnsupportedAdapterError, match="path_initial_model_for_weight_conversion"):
        read_peft(edit_config(peft_folder(), init_lora_weights=init))


@pytest.mark.parametrize("init", [True, False, None, "gaussian", "eva", "orthogonal"])
def test_initialisations_that_leave_the_base_alone_are_read(peft_folder, edit_config, init):
    assert read_peft(edit_config(peft_folder(), init_lora_weights=init)).modules


def test_conv_factors_are_refused(peft_folder, edit_weights):
    def widen(tensors):
        for name in tensors:
            tensors[name] = tensors[name][..., None, None]

    with pytest.raises(UnsupportedAdapterError, match="convolution"):
        read_peft(edit_weights(peft_folder(), widen))


def test_a_whole_weight_beside_the_factors_is_refused(peft_folder, edit_weights):
    def attach(tensors):
        tensors["base_model.model.lm_head.weight"] = torch.zeros(4, 4)

    with pytest.raises(UnsupportedAdapterError, match=r"lm_head\.weight"):
        read_peft(edit_weights(peft_folder(), attach))


@pytest.mark.parametrize("file", ["adapter_model.safetensors", "adapter_config.json"])
def test_a_git_lfs_pointer_is_named(peft_folder, file):
    folder = peft_folder()
    (folder / file).write_text(LFS_POINTER)
    with pytest.raises(AdapterFormatError, match="git lfs pull"):
        read_peft(folder)


@pytest.mark.parametrize("kept", [0, 4, 200, -1])
def test_a_truncated_file_is_named(peft_folder, kept):
    folder = peft_folder()
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(AdapterFormatError, match="truncated"):
        read_peft(folder)


def test_a_corrupt_header_is_named(peft_folder):
    folder = peft_folder()
    path = folder / "adapter_model.safetensors"
    content = bytearray(path.read_bytes())
    content[8:40] = b"x" * 32
    path.write_bytes(content)
    with pytest.raises(AdapterFormatError, match="header"):
        read_peft(folder)


def with_header(content: bytes, entries: object) -> bytes:
    """Returns a safetensors file with another header over the same data."""
    header = json.dumps(entries).encode()
    data = content[8 + int.from_bytes(content[:8], "little") :]
    return len(header).to_bytes(8, "little") + header + data


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F99", "shape": [2, 2], "data_offsets": [0, 16]},
        {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 16]},
        {"dtype": "F32", "shape": [2, 2], "data_offsets": [16, 0]},
        {"dtype": "F32", "shape": [2, 2], "data_offsets": [-16, 0]},
        {"dtype": "F32", "shape": [2, 2], "data_offsets": [0]},
        {"dtype": "F32", "shape": "four", "data_offsets": [0, 16]},
        {"dtype": "F32"},
        [1],
    ],
)
def test_an_entry_that_describes_no_tensor_is_a_corrupt_header(peft_folder, entry):
    folder = peft_folder()
    path = folder / "adapter_model.safetensors"
    path.write_bytes(with_header(path.read_bytes(), {"lora_A": entry}))
    with pytest.raises(AdapterFormatError, match=r"header|deserializ"):
        read_peft(folder)


@pytest.mark.parametrize("entries", [[1], "text", 3])
def test_a_header_that_is_no_object_is_corrupt(peft_folder, entries):
    folder = peft_folder()
    path = folder / "adapter_model.safetensors"
    path.write_bytes(with_header(path.read_bytes(), entries))
    with pytest.raises(AdapterFormatError, match="header"):
        read_peft(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_named_with_their_tensor(peft_folder, edit_weights, value):
    def spoil(tensors):
        tensors["base_model.model.model.layers.1.self_attn.v_proj.lora_B.weight"][3, 2] = value

    with pytest.raises(
        AdapterFormatError, match=r"1 NaN or infinite .*layers\.1\.self_attn\.v_proj"
    ):
        read_peft(edit_weights(peft_folder(), spoil))


def test_integer_weights_are_refused(peft_folder, edit_weights):
    def quantise(tensors):
        for name in tensors:
            tensors[name] = tensors[name].to(torch.int8)

    with pytest.raises(AdapterFormatError, match="int8"):
        read_peft(edit_weights(peft_folder(), quantise))


def test_factors_of_different_rank_are_refused(peft_folder, edit_weights):
    def shrink(tensors):
        name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
        tensors[name] = tensors[name][:2].clone()

    with pytest.raises(AdapterFormatError, match=r"lora_A \(2, 32\) and lora_B \(32, 4\)"):
        read_peft(edit_weights(peft_folder(), shrink))


def test_a_rank_that_the_config_contradicts_is_refused(peft_folder, edit_config):
    with pytest.raises(AdapterFormatError, match="Expected rank 8"):
        read_peft(edit_config(peft_folder(), r=8))


def test_half_an_adapter_is_refused(peft_folder, edit_weights):
    def halve(tensors):
        del tensors["base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"]

    with pytest.raises(AdapterFormatError, match="Found only lora_A"):
        read_peft(edit_weights(peft_folder(), halve))


@pytest.mark.parametrize(
    "fields",
    [
        {"target_modules": ["v_proj"]},
        {"target_modules": r".*v_proj"},
        {"layers_to_transform": [1]},
        {"exclude_modules": "q_proj|.*q_proj"},
    ],
)
def test_weights_that_the_config_leaves_out_are_refused_and_not_dropped(
    peft_folder, edit_config, fields
):
    with pytest.raises(AdapterFormatError, match="PEFT would load them nowhere"):
        read_peft(edit_config(peft_folder(), **fields))


@pytest.mark.parametrize(
    "fields", [{"rank_pattern": {"(": 3}}, {"r": "four"}, {"lora_alpha": None}, {"r": [4]}]
)
def test_a_config_that_peft_could_not_read_is_a_format_error(peft_folder, edit_config, fields):
    with pytest.raises(AdapterFormatError):
        read_peft(edit_config(peft_folder(), **fields))


@pytest.mark.parametrize("content", ["", "{", "[1]", "null", '"text"'])
def test_a_config_that_is_no_object_is_refused(peft_folder, content):
    folder = peft_folder()
    (folder / "adapter_config.json").write_text(content)
    with pytest.raises(AdapterFormatError, match="JSON object"):
        read_peft(folder)


@pytest.mark.parametrize("missing", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_missing_file_is_named(peft_folder, missing):
    folder = peft_folder()
    (folder / missing).unlink()
    with pytest.raises(AdapterFormatError, match=missing):
        read_peft(folder)


def test_two_adapters_in_one_file_are_refused(peft_folder, edit_weights):
    def rename(tensors):
        for index, name in enumerate(list(tensors)):
            owner = "first" if index % 2 else "second"
            tensors[name.replace(".weight", f".{owner}.weight")] = tensors.pop(name)

    with pytest.raises(AdapterFormatError, match="in one file"):
        read_peft(edit_weights(peft_folder(), rename))


class Payload:
    def __reduce__(self):
        return (print, ("this must never run",))


def test_a_pickle_that_runs_code_is_refused_even_on_request(peft_folder, capsys):
    folder = peft_folder()
    (folder / "adapter_model.safetensors").unlink()
    torch.save({"a": Payload()}, folder / "adapter_model.bin")
    with pytest.raises(AdapterFormatError):
        read_peft(folder, allow_pickle=True)
    assert capsys.readouterr().out == ""


def test_a_refused_adapter_leaves_no_folder_behind(tmp_path):
    bad = PeftAdapter({"a": LoraModule(torch.full((2, 4), torch.nan), torch.ones(4, 2), 1.0)})
    with pytest.raises(AdapterFormatError):
        write_peft(tmp_path / "out", bad)
    assert not (tmp_path / "out").exists()


def test_errors_survive_pickling_with_their_parts(peft_folder, edit_config):
    import pickle

    with pytest.raises(UnsupportedAdapterError) as caught:
        read_peft(edit_config(peft_folder(), use_dora=True))
    again = pickle.loads(pickle.dumps(caught.value))
    assert json.dumps([again.expected, again.found, again.action])
    assert str(again) == str(caught.value)
