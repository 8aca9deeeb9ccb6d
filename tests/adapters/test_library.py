"""AdapterLibrary: what is added is what is found, and what fails changes nothing."""

from __future__ import annotations

import json
import sqlite3

import pytest
import torch
from safetensors.torch import load_file

from lag_engine.adapters import AdapterLibrary, AdapterSource, LoraModule, PeftAdapter
from lag_engine.errors import (
    AdapterFormatError,
    AdapterNotFoundError,
    DeadAdapterWarning,
    DuplicateAdapterError,
    LagError,
    LibraryCorruptError,
    LibraryError,
    LibraryLockedError,
)

MODULE = "model.layers.0.self_attn.q_proj"


def state(library):
    """Everything that a failed call must leave as it was."""
    files = sorted(path.name for path in (library.path / "segments").iterdir())
    return library.generation, library.fingerprint, library.list(), files


def test_what_was_added_is_told_by_info_and_list(library, make_adapter):
    info = library.add(
        make_adapter(1, rank=4),
        name="doc",
        kind="knowledge",
        document_id="d1",
        metadata={"title": "Zürich", "parts": [1, 2]},
    )
    assert library.info("doc") == info
    assert library.list() == [info]
    assert (info.name, info.kind, info.document_id, info.rank) == ("doc", "knowledge", "d1", 4)
    assert info.metadata == {"title": "Zürich", "parts": [1, 2]}
    assert info.modules == tuple(make_adapter(1).modules)
    assert info.n_bytes == 2 * 4 * (4 * 32 + 4 * 32 + 4)
    assert info.source == "adapter-1"
    assert "doc" in library
    assert len(library) == 1


def test_the_name_is_by_default_the_last_part_of_the_source(library, make_adapter):
    assert library.add(make_adapter(7)).name == "adapter-7"


def test_everything_is_there_after_reopening(tmp_path, make_adapter, stacked_delta):
    with AdapterLibrary.create(tmp_path / "x", base_model="org/base", dtype="float64") as library:
        library.add_many([make_adapter(i, rank=i + 1) for i in range(3)], progress=False)
        before = library.list(), library.fingerprint, library.generation
    with AdapterLibrary.open(tmp_path / "x", read_only=True) as library:
        assert (library.list(), library.fingerprint, library.generation) == before
        assert library.base_model == "org/base"
        assert library.dtype == torch.float64
        part = make_adapter(2, rank=3).modules[MODULE]
        torch.testing.assert_close(
            stacked_delta(library, MODULE, "task", "adapter-2"),
            2.0 * part.lora_B.double() @ part.lora_A.double(),
        )


def test_segments_are_plain_safetensors(library, make_adapter):
    library.add_many([make_adapter(0), make_adapter(1, rank=5)], progress=False)
    (path,) = (library.path / "segments").iterdir()
    tensors = load_file(path)
    assert tensors[f"{MODULE}::A"].shape == (2, 5, 32)
    assert torch.equal(tensors[f"{MODULE}::A"][:, 0], tensors[f"{MODULE}::arrow"])


def test_rows_follow_the_order_of_joining_whatever_is_compacted_removed_or_renamed(
    library, make_adapter
):
    for i in (5, 3, 9):
        library.add(make_adapter(i), kind="knowledge" if i == 3 else "task")
    library.add_many(
        [AdapterSource(make_adapter(i), kind="knowledge") for i in (8, 2)], progress=False
    )
    library.add(make_adapter(1))
    library.rename("adapter-5", "z")
    library.remove("adapter-9")
    for _ in range(2):
        assert library.stack(MODULE, "task").names == ("z", "adapter-1")
        assert library.stack(MODULE, "knowledge").names == ("adapter-3", "adapter-8", "adapter-2")
        library.compact()
    names = [info.name for info in library.list()]
    assert names == ["z", "adapter-3", "adapter-8", "adapter-2", "adapter-1"]


def test_replacing_is_one_change_after_which_only_the_newcomer_has_the_name(
    library, make_adapter, stacked_delta
):
    library.add_many([make_adapter(i) for i in (1, 2)], progress=False)
    old, generation = library.info("adapter-1"), library.generation
    newcomers = [AdapterSource(make_adapter(7, rank=5), "adapter-1"), make_adapter(3)]
    new, _ = library.add_many(newcomers, replace=True, progress=False)
    assert library.generation == generation + 1
    assert new.id > old.id
    assert [info.name for info in library.list()] == ["adapter-2", "adapter-1", "adapter-3"]
    part = make_adapter(7, rank=5).modules[MODULE]
    torch.testing.assert_close(
        stacked_delta(library, MODULE, "task", "adapter-1"),
        2.0 * part.lora_B.double() @ part.lora_A.double(),
        rtol=1e-5,
        atol=1e-5,
    )
    library.compact()
    assert library.info("adapter-1") == new


def test_a_batch_that_replaces_still_refuses_one_name_twice(library, make_adapter):
    library.add(make_adapter(1))
    before = state(library)
    with pytest.raises(DuplicateAdapterError, match="in this batch"):
        library.add_many([make_adapter(1), make_adapter(1)], replace=True, progress=False)
    assert state(library) == before


def test_compacting_keeps_every_factor_and_frees_the_room(library, make_adapter, stacked_delta):
    for i in range(4):
        library.add(make_adapter(i, rank=i + 1), kind="task" if i % 2 else "knowledge")
    fingerprint = library.fingerprint
    expected = {
        info.name: stacked_delta(library, MODULE, info.kind, info.name) for info in library.list()
    }
    library.compact()
    assert library.fingerprint == fingerprint
    for info in library.list():
        found = stacked_delta(library, MODULE, info.kind, info.name)
        assert torch.equal(found, expected[info.name])
    assert len(list((library.path / "segments").iterdir())) == 1
    library.remove("adapter-3")
    assert library.compact() > 0
    assert library.verify().n_adapters == 3
    assert library.compact() == 0


def test_an_empty_library_compacts_verifies_and_takes_adapters_again(library, make_adapter):
    library.add(make_adapter(0))
    library.remove("adapter-0")
    library.compact()
    assert list((library.path / "segments").iterdir()) == []
    assert library.verify() == (0, 0, 0)
    assert library.add(make_adapter(0)).id > 1


def test_a_removed_name_is_free_again(library, make_adapter):
    first = library.add(make_adapter(0), name="a")
    library.remove("a")
    assert "a" not in library
    second = library.add(make_adapter(1), name="a")
    assert second.id > first.id
    assert library.stack(MODULE, "task").names == ("a",)


def test_a_taken_name_is_an_error_and_not_a_silent_success(library, make_adapter):
    library.add(make_adapter(0), name="a")
    library.add(make_adapter(0), name="b")
    before = state(library)
    with pytest.raises(DuplicateAdapterError, match="'a' is taken in the library"):
        library.add(make_adapter(1), name="a")
    with pytest.raises(DuplicateAdapterError):
        library.rename("b", "a")
    with pytest.raises(DuplicateAdapterError, match="in this batch"):
        library.add_many([make_adapter(5), make_adapter(5)], progress=False)
    assert state(library) == before


def test_renaming_to_the_same_name_is_fine_and_changes_nothing(library, make_adapter):
    library.add(make_adapter(0), name="a")
    before = state(library)
    assert library.rename("a", "a").name == "a"
    assert state(library) == before


@pytest.mark.parametrize("call", ["info", "remove", "export", "rename"])
def test_an_unknown_name_is_named(library, tmp_path, call):
    more = {"export": [tmp_path / "out"], "rename": ["b"]}.get(call, [])
    with pytest.raises(AdapterNotFoundError, match="'ghost'"):
        getattr(library, call)("ghost", *more)


@pytest.mark.parametrize("name", ["", " ", "a/b", "a\\b", "..", ".", "a\nb", " a", "x" * 256, 7])
def test_a_name_that_cannot_be_one_is_refused(library, make_adapter, name):
    with pytest.raises(LibraryError, match="adapter name"):
        library.add(make_adapter(0), name=name)
    library.add(make_adapter(0), name="good")
    with pytest.raises(LibraryError, match="adapter name"):
        library.rename("good", name)


@pytest.mark.parametrize("metadata", [{"x": object()}, {"x": float("nan")}, [1, 2], {"x": {1}}])
def test_metadata_that_json_cannot_hold_is_refused(library, make_adapter, metadata):
    with pytest.raises(LibraryError, match="JSON"):
        library.add(make_adapter(0), metadata=metadata)
    assert len(library) == 0


def test_an_unknown_kind_is_refused(library, make_adapter):
    with pytest.raises(LibraryError, match="'skill'"):
        library.add(make_adapter(0), kind="skill")
    library.add(make_adapter(0))
    with pytest.raises(LibraryError, match="'skill'"):
        library.stack(MODULE, "skill")


def test_an_unknown_module_is_refused(library, make_adapter):
    library.add(make_adapter(0))
    with pytest.raises(LibraryError, match=r"model\.layers\.7"):
        library.stack("model.layers.7", "task")


@pytest.mark.parametrize("position", [0, 1, 2])
def test_one_bad_adapter_keeps_out_the_whole_batch(library, make_adapter, position):
    library.add(make_adapter(0))
    before = state(library)
    bad = PeftAdapter({MODULE: LoraModule(torch.full((2, 32), torch.nan), torch.ones(32, 2), 1.0)})
    batch = [AdapterSource(make_adapter(1)), AdapterSource(make_adapter(2))]
    batch.insert(position, AdapterSource(bad, name="bad"))
    with pytest.raises(AdapterFormatError, match="NaN"):
        library.add_many(batch, progress=False)
    assert state(library) == before


def test_factors_beyond_the_dtype_are_refused(tmp_path):
    huge = PeftAdapter({MODULE: LoraModule(torch.ones(1, 32) * 1e4, torch.ones(32, 1) * 1e4, 1.0)})
    with AdapterLibrary.create(tmp_path / "x", base_model=None, dtype="float16") as library:
        with pytest.raises(AdapterFormatError, match="float32"):
            library.add(huge, name="huge")
        assert len(library) == 0


def test_a_dead_adapter_joins_with_a_warning(library, make_adapter):
    with pytest.warns(DeadAdapterWarning):
        library.add(make_adapter(0, scaling=0.0))
    assert library.stack(MODULE, "task").singular.count_nonzero() == 0


def test_a_batch_larger_than_a_segment_is_still_one_change(library, make_adapter, monkeypatch):
    monkeypatch.setattr("lag_engine.adapters.writing._SEGMENT_BYTES", 4000)
    before = library.generation
    infos = library.add_many([make_adapter(i) for i in range(9)], progress=False)
    assert [info.name for info in infos] == [f"adapter-{i}" for i in range(9)]
    assert library.generation == before + 1
    assert len(list((library.path / "segments").iterdir())) > 1
    assert library.verify().n_adapters == 9


def test_adding_many_shows_its_progress_on_standard_error_only(library, make_adapter, capsys):
    library.add_many([make_adapter(i) for i in range(3)])
    out, err = capsys.readouterr()
    assert "Adding adapters" in err
    assert out == ""


def test_adding_from_a_generator_of_sources_works(library, make_adapter):
    infos = library.add_many((make_adapter(i) for i in range(3)), progress=False)
    assert len(infos) == 3
    assert library.add_many([], progress=False) == []


def test_the_fingerprint_tells_content_and_order_but_not_the_folder(tmp_path, make_adapter):
    def fingerprint(name, seeds):
        with AdapterLibrary.create(tmp_path / name, base_model=None) as library:
            library.add_many([make_adapter(seed) for seed in seeds], progress=False)
            return library.fingerprint

    assert fingerprint("a", [1, 2]) == fingerprint("b", [1, 2])
    assert fingerprint("c", [2, 1]) != fingerprint("d", [1, 2])
    assert fingerprint("e", [1, 3]) != fingerprint("f", [1, 2])


def test_every_change_raises_the_generation_once(library, make_adapter):
    seen = [library.generation]
    library.add(make_adapter(0), name="a")
    seen.append(library.generation)
    library.rename("a", "b")
    seen.append(library.generation)
    library.remove("b")
    seen.append(library.generation)
    library.compact()
    seen.append(library.generation)
    assert seen == list(range(seen[0], seen[0] + 5))


def test_verify_finds_a_flipped_bit_and_names_the_adapters(library, make_adapter):
    library.add_many([make_adapter(0), make_adapter(1)], progress=False)
    (path,) = (library.path / "segments").iterdir()
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(LibraryCorruptError, match="adapter-0, adapter-1"):
        library.verify()


def test_verify_finds_a_manifest_that_lies(library, make_adapter):
    library.add(make_adapter(0))
    with sqlite3.connect(library.path / "manifest.sqlite") as db:
        db.execute("UPDATE adapters SET sha256 = 'x'")
    db.close()
    with pytest.raises(LibraryCorruptError, match="adapter-0 has other factors"):
        library.verify()


@pytest.mark.parametrize("damage", ["missing", "truncated", "empty"])
def test_a_broken_segment_is_an_error_when_it_is_used_and_its_adapters_can_be_removed(
    tmp_path, make_adapter, damage
):
    with AdapterLibrary.create(tmp_path / "x", base_model=None) as library:
        library.add(make_adapter(0))
        library.add(make_adapter(1))
    path = tmp_path / "x" / "segments" / "0001.safetensors"
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(content[: len(content) // 2] if damage == "truncated" else b"")
    with AdapterLibrary.open(tmp_path / "x") as library:
        with pytest.raises(LibraryCorruptError):
            library.stack(MODULE, "task")
        with pytest.raises(LibraryCorruptError, match=r"0001\.safetensors \(holds adapter-0\)"):
            library.verify()
        library.remove("adapter-0")
        assert library.stack(MODULE, "task").names == ("adapter-1",)
        library.compact()
        assert library.verify().n_adapters == 1


def test_a_manifest_that_is_no_database_is_named(tmp_path):
    AdapterLibrary.create(tmp_path / "x", base_model=None).close()
    (tmp_path / "x" / "manifest.sqlite").write_bytes(b"not a database" * 100)
    for read_only in (True, False):
        with pytest.raises(LibraryCorruptError, match="SQLite manifest"):
            AdapterLibrary.open(tmp_path / "x", read_only=read_only)


def test_a_library_of_another_format_is_named(tmp_path):
    AdapterLibrary.create(tmp_path / "x", base_model=None).close()
    with sqlite3.connect(tmp_path / "x" / "manifest.sqlite") as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(LibraryError, match="format 99"):
        AdapterLibrary.open(tmp_path / "x")


def test_creating_over_a_library_and_opening_nothing_are_errors(tmp_path, library):
    with pytest.raises(LibraryError, match="Found one"):
        AdapterLibrary.create(library.path, base_model=None)
    with pytest.raises(LibraryError, match=r"AdapterLibrary\.create"):
        AdapterLibrary.open(tmp_path / "nothing")
    with pytest.raises(LibraryError, match="float99"):
        AdapterLibrary.create(tmp_path / "new", base_model=None, dtype="float99")


def test_a_second_writer_is_told_who_the_first_is(library):
    import os

    with pytest.raises(LibraryLockedError, match="this process") as caught:
        AdapterLibrary.open(library.path)
    assert isinstance(caught.value, LagError)
    assert json.loads((library.path / "writer.lock").read_text())["pid"] == os.getpid()
    library.close()
    AdapterLibrary.open(library.path).close()


def test_a_reader_refuses_every_change(library, make_adapter):
    library.add(make_adapter(0), name="a")
    with AdapterLibrary.open(library.path, read_only=True) as reader:
        for change in (
            lambda: reader.add(make_adapter(1)),
            lambda: reader.remove("a"),
            lambda: reader.rename("a", "b"),
            reader.compact,
        ):
            with pytest.raises(LibraryError, match="read_only=True"):
                change()


def test_a_closed_library_says_so_and_closing_twice_is_fine(library, make_adapter):
    library.add(make_adapter(0))
    stack = library.stack(MODULE, "task")
    library.close()
    library.close()
    with pytest.raises(LibraryError, match="closed"):
        library.list()
    with pytest.raises(LibraryError, match="closed"):
        library.add(make_adapter(1))
    assert stack.A(torch.tensor([0])).isfinite().all()
    assert "closed" in repr(library)


def test_a_folder_that_cannot_be_written_can_be_read(tmp_path, make_adapter, monkeypatch):
    with AdapterLibrary.create(tmp_path / "x", base_model=None) as library:
        library.add(make_adapter(0))
    monkeypatch.setattr("os.access", lambda *_: False)
    before = sorted(path.name for path in (tmp_path / "x").iterdir())
    with AdapterLibrary.open(tmp_path / "x", read_only=True) as library:
        assert library.stack(MODULE, "task").names == ("adapter-0",)
        assert sorted(path.name for path in (tmp_path / "x").iterdir()) == before
    with pytest.raises(LibraryError, match="read_only=True"):
        AdapterLibrary.open(tmp_path / "x")


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_a_pickled_folder_joins_on_request(library, peft_folder):
    folder = peft_folder()
    weights = folder / "adapter_model.safetensors"
    torch.save(load_file(weights), folder / "adapter_model.bin")
    weights.unlink()
    with pytest.raises(AdapterFormatError, match="allow_pickle"):
        library.add(folder)
    assert library.add(folder, allow_pickle=True).name == "adapter"


def test_factors_of_mixed_dtype_join_together(library, make_adapter, stacked_delta):
    adapter = make_adapter(0)
    modules = {
        module: part._replace(lora_A=part.lora_A.to(dtype), lora_B=part.lora_B.half())
        for (module, part), dtype in zip(
            adapter.modules.items(), (torch.bfloat16, torch.float64), strict=True
        )
    }
    library.add(PeftAdapter(modules), name="mixed")
    for module, part in modules.items():
        expected = part.scaling * part.lora_B.double() @ part.lora_A.double()
        found = stacked_delta(library, module, "task", "mixed")
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
