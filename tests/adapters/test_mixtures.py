"""Mixtures: passages as a few numbers over shared latent adapters, in the library."""

from __future__ import annotations

import sqlite3
import struct

import pytest
import torch

from lag_engine.adapters import AdapterLibrary, AdapterSource, MixtureSource, audit, read_peft
from lag_engine.adapters.mixtures import LatentTable
from lag_engine.adapters.schema import FORMAT_VERSION
from lag_engine.errors import (
    AdapterNotFoundError,
    DuplicateAdapterError,
    LibraryCorruptError,
    LibraryError,
)

MODULES = ("model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj")
FIRST, SECOND = MODULES


def latents(make_adapter, n=4, **options):
    return [
        AdapterSource(make_adapter(100 + i, **options), f"latent-{i}", "latent") for i in range(n)
    ]


def mixture(name, first=("latent-0", 0.75), second=("latent-2", 0.5), **options):
    options = {"document_id": name, "metadata": {"revision": f"r-{name}"}, **options}
    return MixtureSource(
        name, {FIRST: dict([first, ("latent-1", 0.25)]), SECOND: dict([second])}, **options
    )


@pytest.fixture
def mixed(library, make_adapter):
    """Two task adapters, four latent ones, and the passages p0, p1 and p2."""
    library.add(make_adapter(0), name="t0")
    library.add_mixtures(
        [mixture("p0"), mixture("p1", ("latent-3", 1.0)), mixture("p2")],
        latents=latents(make_adapter),
    )
    library.add(make_adapter(1), name="t1")
    return library


def delta(adapter, module):
    """The dense update in float64; (D_out, D_in)."""
    part = adapter.modules[module]
    return part.scaling * part.lora_B.double() @ part.lora_A.double()


def rows(library):
    """All the manifest says, but for the generation."""
    with sqlite3.connect(library.path / "manifest.sqlite") as db:
        return {
            "adapters": db.execute("SELECT * FROM adapters ORDER BY id").fetchall(),
            "mixtures": db.execute("SELECT * FROM mixtures ORDER BY id").fetchall(),
            "segments": db.execute("SELECT * FROM segments ORDER BY id").fetchall(),
        }


def test_mixtures_are_listed_named_and_told_apart_like_adapters(mixed):
    assert [info.name for info in mixed.list()] == [
        *("t0", "latent-0", "latent-1", "latent-2", "latent-3"),
        *("p0", "p1", "p2", "t1"),
    ]
    assert [info.name for info in mixed.list("mixture")] == ["p0", "p1", "p2"]
    assert [info.name for info in mixed.list("latent")] == [f"latent-{i}" for i in range(4)]
    assert [info.name for info in mixed.list("task")] == ["t0", "t1"]
    ids = [info.id for info in mixed.list()]
    assert ids == sorted(set(ids))
    info = mixed.info("p1")
    assert (info.kind, info.document_id, info.metadata["revision"]) == ("mixture", "p1", "r-p1")
    assert (info.rank, info.modules) == (6, MODULES)
    assert len(mixed) == 9
    assert "p1" in mixed


def test_what_comes_back_is_what_was_mixed(mixed):
    assert mixed.snapshot().mixture("p0") == {
        FIRST: {"latent-0": 0.75, "latent-1": 0.25},
        SECOND: {"latent-2": 0.5},
    }
    with pytest.raises(AdapterNotFoundError, match="no 't0' among 3"):
        mixed.snapshot().mixture("t0")


def test_a_passage_costs_three_bytes_for_each_module_and_latent_adapter(mixed):
    assert mixed.info("p0").n_bytes == 4 + 1 + 3 * len(MODULES) * 2


def test_a_mixture_joins_no_stack(mixed):
    assert mixed.stack(FIRST, "task").names == ("t0", "t1")
    assert len(mixed.stack(FIRST, "knowledge")) == 0
    assert mixed.stack(FIRST, "latent").names == tuple(f"latent-{i}" for i in range(4))


def test_a_passage_more_leaves_every_other_row_as_it_is(mixed):
    before, files = rows(mixed), sorted((mixed.path / "segments").iterdir())
    mixed.add_mixtures([mixture("p3")])
    after = rows(mixed)
    assert after["mixtures"][:-1] == before["mixtures"]
    assert after["adapters"] == before["adapters"]
    assert after["segments"] == before["segments"]
    assert sorted((mixed.path / "segments").iterdir()) == files


def test_a_replaced_mixture_leaves_the_others_and_joins_last(mixed):
    before, generation = rows(mixed), mixed.generation
    mixed.add_mixtures([mixture("p1", ("latent-2", 2.0))], replace=True)
    assert [row[1] for row in rows(mixed)["mixtures"]] == ["p0", "p2", "p1"]
    assert rows(mixed)["mixtures"][:2] == [before["mixtures"][0], before["mixtures"][2]]
    assert mixed.snapshot().mixture("p1")[FIRST] == {"latent-2": 2.0, "latent-1": 0.25}
    assert mixed.generation == generation + 1


def test_names_are_shared_with_adapters(mixed, make_adapter):
    with pytest.raises(DuplicateAdapterError, match="'t0' is taken"):
        mixed.add_mixtures([mixture("t0")])
    with pytest.raises(DuplicateAdapterError, match="'p0' is taken"):
        mixed.add(make_adapter(7), name="p0")
    with pytest.raises(DuplicateAdapterError, match="in this batch"):
        mixed.add_mixtures([mixture("p8"), mixture("p8")])
    mixed.add_many([AdapterSource(make_adapter(7), "p0")], replace=True, progress=False)
    assert mixed.info("p0").kind == "task"


def test_renaming_and_removing(mixed):
    number = mixed.info("p1").id
    assert mixed.rename("p1", "q1").id == number
    assert mixed.snapshot().mixture("q1")[FIRST]["latent-3"] == 1.0
    mixed.remove("q1")
    assert [info.name for info in mixed.list("mixture")] == ["p0", "p2"]
    with pytest.raises(AdapterNotFoundError, match="Did you mean 'p0'"):
        mixed.remove("p00")
    mixed.compact()
    assert [info.name for info in mixed.list("mixture")] == ["p0", "p2"]
    assert mixed.verify().n_adapters == 8


def test_latent_adapters_cannot_change_under_the_mixtures_that_count_them(mixed, make_adapter):
    before = rows(mixed)
    newcomer = AdapterSource(make_adapter(200), "latent-4", "latent")
    again = AdapterSource(make_adapter(200), "latent-0", "latent")
    for change in (
        lambda: mixed.remove("latent-1"),
        lambda: mixed.add_many([newcomer], progress=False),
        lambda: mixed.add_many([again], replace=True, progress=False),
        lambda: mixed.add_mixtures([mixture("p0")], latents=latents(make_adapter), replace=True),
    ):
        with pytest.raises(LibraryError, match="together with all that mix them"):
            change()
    assert rows(mixed) == before
    assert len(list((mixed.path / "segments").iterdir())) == mixed.verify().n_segments


def test_a_renamed_latent_adapter_is_still_mixed(mixed):
    mixed.rename("latent-0", "shared")
    assert mixed.snapshot().mixture("p0")[FIRST] == {"shared": 0.75, "latent-1": 0.25}


def test_all_latent_adapters_are_replaced_at_once_with_all_that_mix_them(mixed, make_adapter):
    new = latents(make_adapter, 2)
    passages = [
        mixture(f"p{i}", ("latent-0", 0.5), ("latent-1", 0.5), document_id=None) for i in range(3)
    ]
    mixed.add_mixtures(passages, latents=new, replace=True)
    assert [info.name for info in mixed.list("latent")] == ["latent-0", "latent-1"]
    assert mixed.snapshot().mixture("p2")[FIRST] == {"latent-0": 0.5, "latent-1": 0.25}
    for name in ("p0", "p1", "p2"):
        mixed.remove(name)
    mixed.remove("latent-1")


@pytest.mark.parametrize(
    ("weights", "found"),
    [
        ({}, "nothing to mix"),
        ({FIRST: {}}, "nothing to mix"),
        ({FIRST: {"t0": 1.0}}, "'t0' in"),
        ({"lm_head": {"latent-0": 1.0}}, "'latent-0' in lm_head"),
        ({FIRST: {"latent-0": float("nan")}}, "the weight nan"),
        ({FIRST: {"latent-0": 1e6}}, "beyond half precision"),
    ],
)
def test_what_cannot_be_mixed_is_refused(mixed, weights, found):
    before = rows(mixed)
    with pytest.raises(LibraryError, match=found):
        mixed.add_mixtures([mixture("p8"), MixtureSource("p9", weights)])
    assert rows(mixed) == before


def test_the_fingerprint_follows_mixtures_and_not_their_notes(mixed):
    found = mixed.fingerprint
    mixed.add_mixtures([mixture("p2", metadata={"revision": "other"})], replace=True)
    assert mixed.fingerprint == found
    mixed.add_mixtures([mixture("p2", ("latent-3", 0.5))], replace=True)
    assert mixed.fingerprint != found


@pytest.mark.parametrize("at", [0, 4, 6, -1])
def test_a_changed_byte_is_found_out(mixed, at):
    with sqlite3.connect(mixed.path / "manifest.sqlite") as db:
        [blob] = db.execute("SELECT weights FROM mixtures WHERE name = 'p1'").fetchone()
        broken = bytearray(blob)
        broken[at] ^= 1
        db.execute("UPDATE mixtures SET weights = ? WHERE name = 'p1'", (bytes(broken),))
    with pytest.raises(LibraryCorruptError, match="mixture p1"):
        mixed.verify()


def test_weights_are_kept_in_half_precision():
    table = LatentTable({"a": ("m",), "b": ("m",)})
    blob = table.pack(MixtureSource("p", {"m": {"b": 1 / 3}}))
    assert table.unpack(blob, "p") == {"m": {"b": struct.unpack("<e", struct.pack("<e", 1 / 3))[0]}}


def test_a_mixture_is_exported_as_one_adapter_of_the_same_update(mixed, stacked_delta, tmp_path):
    mixed.export("p0", tmp_path / "p0")
    exported = read_peft(tmp_path / "p0")
    expected = 0.75 * stacked_delta(mixed, FIRST, "latent", "latent-0") + 0.25 * stacked_delta(
        mixed, FIRST, "latent", "latent-1"
    )
    torch.testing.assert_close(delta(exported, FIRST), expected, rtol=1e-5, atol=1e-5)
    expected = 0.5 * stacked_delta(mixed, SECOND, "latent", "latent-2")
    torch.testing.assert_close(delta(exported, SECOND), expected, rtol=1e-5, atol=1e-5)


def test_an_audit_compares_latent_adapters_but_lets_none_win(mixed):
    report = audit(mixed, n_directions=8)
    assert report.n_adapters == 6
    assert {win.name for win in report.wins} == {"t0", "t1"}
    assert report.is_clean or all("latent" not in win.name for win in report.dominant)


def test_another_process_sees_mixtures_by_the_generation(mixed):
    with AdapterLibrary.open(mixed.path, read_only=True) as reader:
        seen = reader.snapshot()
        mixed.add_mixtures([mixture("p5")])
        assert "p5" not in seen
        assert "p5" in reader
        assert reader.fingerprint == mixed.fingerprint


def test_a_library_of_format_1_is_read_as_it_is_and_upgraded_by_a_writer(
    tmp_path, make_adapter, as_format_1
):
    path = tmp_path / "old"
    with AdapterLibrary.create(path, base_model=None) as library:
        for i in range(3):
            library.add(make_adapter(i))
        library.remove("adapter-2")
        library.compact()
        fingerprint, last = library.fingerprint, library.info("adapter-1").id + 1
    as_format_1(path)

    with AdapterLibrary.open(path, read_only=True) as reader:
        assert (len(reader), reader.fingerprint) == (2, fingerprint)
        reader.verify()
        with AdapterLibrary.open(path) as library:
            assert library.fingerprint == fingerprint
            library.add_mixtures([mixture("p0")], latents=latents(make_adapter))
            assert library.info("latent-0").id == last + 1, "an id is never given twice"
            library.verify()
        assert "p0" in reader
    with sqlite3.connect(path / "manifest.sqlite") as db:
        assert db.execute("PRAGMA user_version").fetchone() == (FORMAT_VERSION,)
