"""Loading: folders, names, dtypes, and clear errors for what is not a model."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from safetensors.torch import load_file, save_file

from lag_engine.adapters.library import AdapterLibrary
from lag_engine.errors import LibraryError, ModelError
from lag_engine.model.engine import LAGEngine
from lag_engine.model.loading import load, resolve


@pytest.fixture
def folder(tmp_path, text_model, byte_tokenizer):
    """A model folder in bfloat16 with its tokenizer."""
    path = tmp_path / "tiny-model"
    text_model.to(torch.bfloat16).save_pretrained(path)
    byte_tokenizer.save_pretrained(path)
    return path


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def test_a_folder_gives_an_engine_that_answers(folder, tmp_path, make_text_model, random_adapter):
    path = tmp_path / "library"
    with AdapterLibrary.create(path, base_model=folder) as library:
        library.add(random_adapter(make_text_model(), "task", 1), name="t", kind="task")
    with LAGEngine.from_pretrained(folder, library=path, device="cpu") as engine:
        assert engine.name == str(folder)
        assert engine.library.is_read_only
        answer = engine.generate([{"role": "user", "content": "hi"}], max_new_tokens=3)
        assert answer.usage.completion_tokens == 3


def test_a_small_half_precision_checkpoint_runs_in_float32_on_the_cpu(folder):
    automatic = load(folder, device="cpu").model
    explicit = load(folder, device="cpu", dtype="float32").model
    assert automatic.dtype == explicit.dtype == torch.float32
    ids = torch.tensor([[1, 30, 31, 32]])
    with torch.no_grad():
        assert torch.equal(automatic(ids).logits, explicit(ids).logits)
    assert not automatic.training


def test_a_dtype_that_is_asked_for_is_kept(folder, monkeypatch):
    assert load(folder, device="cpu", dtype="bfloat16").model.dtype == torch.bfloat16
    assert load(folder, device="cpu", dtype=torch.float64).model.dtype == torch.float64
    monkeypatch.setattr("lag_engine.model.loading.SMALL_MODEL_PARAMETERS", 10)
    assert load(folder, device="cpu").model.dtype == torch.bfloat16


def test_a_path_without_a_model_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"nothing at .*missing"):
        resolve(tmp_path / "missing")
    with pytest.raises(ModelError, match=r"nothing at .*missing"):
        resolve(str(tmp_path / "missing"))
    with pytest.raises(ModelError, match="nothing"):
        resolve("./no-such-model")
    with pytest.raises(ModelError, match=r"config\.json"):
        resolve(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ModelError, match="a file"):
        resolve(tmp_path / "file")


def test_a_hub_id_that_cannot_be_reached_says_so(offline):
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE") as caught:
        LAGEngine.from_pretrained("nobody/no-such-model")
    assert "hub repository 'nobody/no-such-model'" in str(caught.value)


@pytest.mark.parametrize("bound", [-1, 0.5, "x"])
def test_a_wrong_library_or_bound_is_told_before_the_model_is_looked_for(folder, tmp_path, bound):
    path = tmp_path / "library"
    AdapterLibrary.create(path, base_model=folder).close()
    with pytest.raises(LibraryError, match=f"factor_cache_bytes.*Found {bound!r}"):
        LAGEngine.from_pretrained("/nowhere", library=path, factor_cache_bytes=bound)
    with pytest.raises(LibraryError, match="Expected an adapter library"):
        LAGEngine.from_pretrained("/nowhere", library=tmp_path / "none")


def test_the_library_is_opened_once_and_closed_with_the_engine(folder, tmp_path, monkeypatch):
    AdapterLibrary.create(tmp_path / "library", base_model=folder).close()
    opened = []

    def remember(*args, **options):
        opened.append(AdapterLibrary(*args, **options))
        return opened[-1]

    monkeypatch.setattr(AdapterLibrary, "open", remember)
    options = {"library": tmp_path / "library", "map_factors": False}
    with LAGEngine.from_pretrained(folder, **options) as engine:
        assert [engine.library] == opened
        assert len(opened[0]) == 0
    with pytest.raises(ModelError):
        LAGEngine.from_pretrained("/nowhere", library=tmp_path / "library")
    assert ["closed" in repr(library) for library in opened] == [True, True]


def test_an_open_library_is_not_told_again_how_to_be_read(folder, tmp_path):
    with AdapterLibrary.create(tmp_path / "library", base_model=folder) as library:
        with pytest.raises(LibraryError, match=r"factor_cache_bytes.*Found the open library"):
            LAGEngine.from_pretrained("/nowhere", library=library, factor_cache_bytes=1)
        with pytest.raises(LibraryError, match="map_factors"):
            LAGEngine.from_pretrained("/nowhere", library=library, map_factors=False)
        assert library.generation == 0


def test_a_checkpoint_with_missing_weights_is_refused(folder):
    weights = load_file(folder / "model.safetensors")
    weights.pop("model.layers.0.mlp.up_proj.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1, .*up_proj"):
        load(folder)


def test_a_damaged_checkpoint_is_refused(folder):
    (folder / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ModelError, match="tiny-model"):
        load(folder)


def test_a_folder_without_a_tokenizer_is_refused(folder):
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(ModelError, match="tokenizer"):
        load(folder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "float8"}, "float8"),
        ({"device": "gpu"}, "gpu"),
        ({"quantization": "3bit"}, "3bit"),
    ],
)
def test_an_unknown_setting_is_named(folder, options, message):
    with pytest.raises(ModelError, match=message):
        load(folder, **options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_device_that_is_not_there_is_refused(folder):
    with pytest.raises(ModelError, match="CUDA"):
        load(folder, device="cuda")


@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_quantization_without_bitsandbytes_says_what_to_install(folder, bits, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else find(name)
    )
    with pytest.raises(ModelError, match="pip install bitsandbytes"):
        load(folder, quantization=bits)


def test_lag_tiny_names_the_shipped_model_and_brings_its_library(folder, tmp_path, monkeypatch):
    from lag_engine import tiny

    path = tmp_path / "library"
    AdapterLibrary.create(path, base_model=folder, base_name="lag-tiny").close()
    monkeypatch.setattr(tiny, "model_path", lambda: folder)
    monkeypatch.setattr(tiny, "library_path", lambda: path)
    with LAGEngine.from_pretrained("lag-tiny", device="cpu") as engine:
        assert engine.name == "lag-tiny"
        assert engine.library.path == path


def test_a_mistyped_lag_tiny_is_told_its_name(offline):
    with pytest.raises(ModelError, match="Did you mean 'lag-tiny'"):
        LAGEngine.from_pretrained("lag-tinny")
