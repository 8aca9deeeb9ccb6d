"""An adapter of another base model is found out when it joins."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from lag_engine.adapters import AdapterLibrary, LoraModule, PeftAdapter, read_peft
from lag_engine.adapters.base_model import describe_base, is_same_base
from lag_engine.errors import AdapterMismatchError, ModelError

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

Q_PROJ = "model.layers.0.self_attn.q_proj"


def adapter_for(base_model, *, module=Q_PROJ, d_in=32, d_out=32) -> PeftAdapter:
    part = LoraModule(torch.randn(2, d_in), torch.randn(d_out, 2), 1.0)
    return PeftAdapter({module: part}, base_model, source="newcomer")


@pytest.fixture
def model_folder(make_model, tmp_path):
    folder = tmp_path / "my-model"
    make_model().save_pretrained(folder)
    return folder


def test_a_folder_a_model_and_no_weights_give_the_same_fingerprint(make_model, model_folder):
    from_folder = describe_base(model_folder)
    for weights in model_folder.glob("*.safetensors"):
        weights.unlink()
    assert describe_base(str(model_folder)) == from_folder
    assert describe_base(make_model()).fingerprint == from_folder.fingerprint
    assert describe_base(make_model("gemma")).fingerprint != from_folder.fingerprint


def test_the_shapes_are_those_of_the_modules(make_model):
    base = describe_base(make_model("gpt2"))
    assert base.shapes["transformer.h.0.attn.c_attn"] == (32, 96)
    assert base.transposed >= {"transformer.h.0.attn.c_attn", "transformer.h.1.mlp.c_fc"}
    assert base.shapes["lm_head"] == (32, 64)
    assert "lm_head" not in base.transposed


def test_a_folder_without_a_config_is_an_error(tmp_path):
    with pytest.raises(ModelError, match=r"config\.json"):
        AdapterLibrary.create(tmp_path / "library", base_model=tmp_path)
    assert not (tmp_path / "library").exists()


def test_a_hub_id_that_is_not_cached_keeps_its_name_alone(tmp_path):
    with AdapterLibrary.create(tmp_path / "library", base_model="someone/no-such-model") as library:
        assert library.base_model == "someone/no-such-model"
        assert library.base.shapes is None
        assert library.base.fingerprint is None


@pytest.mark.parametrize(
    "theirs",
    ["/some/where/My-Model", "someone/my-model", "my-model/", None, "", "C:\\models\\my-model"],
)
def test_names_that_end_alike_or_are_unknown_are_one_model(theirs):
    assert is_same_base("org/my-model/", theirs)


def test_a_cached_snapshot_is_its_repository():
    cached = "/cache/models--org--my-model/snapshots/0123456789abcdef"
    assert is_same_base("org/my-model", cached)
    assert not is_same_base("org/my-model", "org/my-model-instruct")


def test_another_name_is_refused_although_it_fits_unless_the_caller_insists(tmp_path, model_folder):
    with AdapterLibrary.create(tmp_path / "library", base_model=model_folder) as library:
        with pytest.raises(AdapterMismatchError, match="allow_other_base=True"):
            library.add(adapter_for("org/other-model"), name="a")
        assert len(library) == 0
        info = library.add(adapter_for("org/other-model"), name="a", allow_other_base=True)
        assert info.base_model == "org/other-model"


@pytest.mark.parametrize("insists", [False, True])
def test_other_widths_are_refused_whatever_the_caller_says(tmp_path, model_folder, insists):
    with (
        AdapterLibrary.create(tmp_path / "library", base_model=model_folder) as library,
        pytest.raises(AdapterMismatchError, match=r"D_in 32 and D_out 32.*D_in 64"),
    ):
        library.add(adapter_for(None, d_in=64), name="a", allow_other_base=insists)


def test_unknown_modules_are_refused_with_an_example_of_known_ones(tmp_path, model_folder):
    stranger = adapter_for(None, module="transformer.h.0.attn.q_proj")
    with (
        AdapterLibrary.create(tmp_path / "library", base_model=model_folder) as library,
        pytest.raises(AdapterMismatchError, match=r"layers\.0\.self_attn\.q_proj.*transformer\.h"),
    ):
        library.add(stranger, name="a")


def test_an_adapter_of_another_architecture_is_refused(tmp_path, model_folder, peft_folder):
    folder = peft_folder("gpt2", target_modules=["c_attn"], fan_in_fan_out=True)
    with (
        AdapterLibrary.create(tmp_path / "library", base_model=model_folder) as library,
        pytest.raises(AdapterMismatchError),
    ):
        library.add(folder)


def test_without_a_known_base_the_first_adapters_set_the_widths(library):
    library.add(adapter_for("org/x"), name="a")
    library.add(adapter_for("org/y", module="model.layers.0.mlp.up_proj", d_out=48), name="b")
    with pytest.raises(AdapterMismatchError, match="this library"):
        library.add(adapter_for("org/x", d_out=48), name="c")
    assert [info.name for info in library.list()] == ["a", "b"]


def test_widths_are_compared_within_one_batch_too(library):
    good = adapter_for(None)
    wide = dataclasses.replace(adapter_for(None, d_out=48), source="wide")
    with pytest.raises(AdapterMismatchError):
        library.add_many([good, wide], progress=False)
    assert len(library) == 0


def test_base_name_is_noted_instead_of_the_path(tmp_path, model_folder, peft_folder):
    folder = tmp_path / "library"
    with AdapterLibrary.create(folder, base_model=model_folder, base_name="lag-tiny") as library:
        library.add(read_peft(peft_folder()), name="a")
    with AdapterLibrary.open(folder, read_only=True) as library:
        assert library.base_model == "lag-tiny"
        assert library.base.shapes[Q_PROJ] == (32, 32)
