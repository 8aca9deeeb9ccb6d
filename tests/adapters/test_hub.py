"""Hub ids, served by a cache folder that is laid out as the hub lays it out; no network."""

from __future__ import annotations

import shutil

import huggingface_hub
import pytest
from huggingface_hub import constants

from lag_engine.adapters import read_peft
from lag_engine.adapters.hub import locate, short_name
from lag_engine.errors import AdapterFormatError

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub_cache(tmp_path, monkeypatch, peft_folder):
    """A cache with one adapter, `someone/my-lora`, and no way out to the network."""
    cache = tmp_path / "cache"
    repository = cache / "models--someone--my-lora"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    shutil.copytree(peft_folder(), repository / "snapshots" / COMMIT)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    original = huggingface_hub.snapshot_download

    def from_this_cache(*args, **kwargs):
        return original(*args, cache_dir=cache, **kwargs)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", from_this_cache)
    return cache


def test_a_cached_hub_id_is_read_offline(hub_cache):
    adapter = read_peft("someone/my-lora")
    assert adapter.modules
    assert adapter.source == "someone/my-lora"


def test_a_cached_revision_is_found(hub_cache):
    assert read_peft("someone/my-lora", revision=COMMIT).modules
    assert read_peft("someone/my-lora", revision="main").modules


def test_an_id_that_is_not_cached_says_so_offline(hub_cache):
    with pytest.raises(AdapterFormatError, match="HF_HUB_OFFLINE") as caught:
        read_peft("someone/else")
    assert "not in the cache" in caught.value.found


def test_only_the_adapters_own_files_are_asked_for(hub_cache, monkeypatch):
    asked = {}

    def record(hub_id, **kwargs):
        asked.update(kwargs)
        return str(hub_cache / "models--someone--my-lora" / "snapshots" / COMMIT)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", record)
    locate("someone/my-lora", revision=None, allow_pickle=False)
    assert asked["allow_patterns"] == ["adapter_config.json", "adapter_model.safetensors"]
    locate("someone/my-lora", revision="main", allow_pickle=True)
    assert "adapter_model.bin" in asked["allow_patterns"]


def test_a_folder_wins_over_a_hub_id_of_the_same_spelling(hub_cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "someone" / "my-lora").mkdir(parents=True)
    with pytest.raises(AdapterFormatError, match="Found no such file"):
        read_peft("someone/my-lora")


@pytest.mark.parametrize("source", ["no-such-folder", "a/b/c", "", "../x", "spaced name/x"])
def test_neither_folder_nor_hub_id_is_an_error_without_asking_the_hub(source, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", None)
    with pytest.raises(AdapterFormatError, match="adapter folder or a hub id"):
        read_peft(source)


def test_a_file_instead_of_its_folder_is_an_error(peft_folder):
    with pytest.raises(AdapterFormatError, match="Found a file"):
        read_peft(peft_folder() / "adapter_config.json")


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("someone/my-lora", "my-lora"),
        ("/a/b/my-lora/", "my-lora"),
        (f"/c/models--someone--my-lora/snapshots/{COMMIT}", "my-lora"),
        ("", ""),
        (".", ""),
    ],
)
def test_the_short_name_is_what_a_person_would_call_it(source, name):
    assert short_name(source) == name
