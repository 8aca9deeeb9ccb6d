"""Adapters over one row space: found when they join, stored once, the same to every reader."""

from __future__ import annotations

import ctypes
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import torch

from lag_engine.adapters import (
    AdapterLibrary,
    AdapterSource,
    LoraModule,
    PeftAdapter,
    audit,
    rebuild,
)
from lag_engine.errors import LibraryError

MODULES = ("model.layers.0.up_proj", "model.layers.1.up_proj")
D_IN, D_OUT, RANK = 40, 24, 3
DTYPES = {"float64": 1e-12, "float32": 1e-5, "bfloat16": 3e-2}


def make(seed: int, *, lora_a: int = 0, rank: int = RANK, modules=MODULES) -> PeftAdapter:
    """An adapter whose lora_A depends on `lora_a` alone."""
    a, b = (torch.Generator().manual_seed(s) for s in (1000 + lora_a, seed))
    return PeftAdapter(
        {
            module: LoraModule(
                torch.randn(rank, D_IN, generator=a), torch.randn(D_OUT, rank, generator=b), 2.0
            )
            for module in modules
        }
    )


def named(adapters, *, kind="task", prefix="a"):
    return [
        AdapterSource(adapter, name=f"{prefix}{index}", kind=kind)
        for index, adapter in enumerate(adapters)
    ]


@pytest.fixture
def make_library(tmp_path):
    def make_one(dtype: str = "float32", name: str = "library") -> AdapterLibrary:
        return AdapterLibrary.create(tmp_path / name, base_model=None, dtype=dtype)

    return make_one


def same_update(form, part: LoraModule, tolerance: float) -> bool:
    update = part.scaling * part.lora_B.double() @ part.lora_A.double()
    difference = torch.linalg.matrix_norm(rebuild(form).double() - update)
    return bool(difference <= tolerance * torch.linalg.matrix_norm(update))


def format_of(path: Path, change: str = "") -> int:
    """The format a library says it has; then it is changed."""
    with closing(sqlite3.connect(path / "manifest.sqlite")) as db:
        [found] = db.execute("PRAGMA user_version").fetchone()
        db.execute(f"PRAGMA user_version {change}")
    return int(found)


@pytest.mark.parametrize("dtype", DTYPES)
def test_members_keep_their_updates_and_orthonormal_directions(make_library, dtype):
    adapters = [make(seed) for seed in range(5)]
    library = make_library(dtype)
    library.add_many(named(adapters), progress=False)
    assert library.stack(MODULES[0], "task").shared is not None
    for index, adapter in enumerate(adapters):
        for module, form in library.snapshot().forms(f"a{index}").items():
            assert same_update(form, adapter.modules[module], DTYPES[dtype])
            gram = form.A.double() @ form.A.double().T
            torch.testing.assert_close(
                gram, torch.eye(RANK).double(), rtol=0, atol=4 * DTYPES[dtype]
            )


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_family_behind_its_basis_has_the_same_projections(make_library, dtype):
    library = make_library(dtype)
    library.add_many(named([make(seed) for seed in range(6)]), progress=False)
    stack = library.stack(MODULES[0], "task")
    basis, behind = stack.shared
    x = torch.randn(7, D_IN, generator=torch.Generator().manual_seed(1)).to(basis.dtype)
    rows = torch.tensor([4, 0, 5])
    assert behind.names == stack.names
    assert (behind.d_in, behind.d_out) == (RANK, D_OUT)
    tolerance = {"rtol": DTYPES[dtype], "atol": 10 * DTYPES[dtype]}
    ours = torch.einsum("kri,ti->tkr", behind.A(rows), x @ basis.T)
    theirs = torch.einsum("kri,ti->tkr", stack.A(rows), x)
    torch.testing.assert_close(ours, theirs, **tolerance)
    torch.testing.assert_close(behind.B(rows), stack.B(rows))
    torch.testing.assert_close(behind.arrow @ basis, stack.arrow, **tolerance)
    torch.testing.assert_close(stack.arrow, stack.A(torch.arange(6))[:, 0])


def test_a_member_takes_about_half_the_room(make_library):
    library = make_library("bfloat16")
    alone = library.add_many(named([make(0)], prefix="alone"), progress=False)[0]
    member = library.add_many(named([make(s) for s in (1, 2)]), progress=False)[0]
    per_module = 2 * RANK * RANK + 2 * RANK * D_OUT + 4 * RANK
    assert member.n_bytes == len(MODULES) * per_module
    assert alone.n_bytes - member.n_bytes == len(MODULES) * 2 * RANK * (D_IN - RANK)


def test_later_batches_join_the_family_and_its_basis_stays_one(make_library):
    library = make_library()
    library.add_many(named([make(seed) for seed in range(2)]), progress=False)
    library.add(make(2), name="later")
    stack = library.stack(MODULES[0], "task")
    assert stack.names == ("a0", "a1", "later")
    assert stack.shared is not None
    assert len(library.snapshot().families()) == 1
    assert same_update(
        library.snapshot().forms("later")[MODULES[0]], make(2).modules[MODULES[0]], 1e-5
    )


def test_the_first_of_a_family_may_join_alone_if_it_says_so(make_library):
    library = make_library()
    library.add_many([AdapterSource(make(0), name="a0", shares_lora_A=True)], progress=False)
    library.add_many([AdapterSource(make(1), name="a1", shares_lora_A=True)], progress=False)
    library.add(make(2), name="a2")
    assert library.stack(MODULES[0], "task").shared is not None
    library.verify()


def test_a_few_members_beside_others_can_still_be_read_in_place(make_library):
    library = make_library()
    library.add_many(named([make(0), make(1, lora_a=1), make(2)]), progress=False)
    places = library.stack(MODULES[0], "task").places
    rows = torch.arange(3)
    A = library.stack(MODULES[0], "task").A(rows)
    for row, address in enumerate(places.A.tolist()):
        floats = (ctypes.c_float * (RANK * D_IN)).from_address(address)
        torch.testing.assert_close(torch.tensor(floats[:]).view(RANK, D_IN), A[row])


def test_joining_order_is_kept_across_families_and_others(make_library):
    library = make_library()
    batch = [make(0), make(1, lora_a=1), make(2), make(3, lora_a=2), make(4), make(5, lora_a=1)]
    infos = library.add_many(named(batch), progress=False)
    names = [f"a{index}" for index in range(6)]
    assert [info.name for info in infos] == names
    stack = library.stack(MODULES[0], "task")
    assert list(stack.names) == names
    assert stack.shared is None
    for row, adapter in enumerate(batch):
        part = adapter.modules[MODULES[0]]
        form = torch.tensor([row])
        update = stack.B(form)[0].T @ stack.A(form)[0]
        torch.testing.assert_close(update, 2.0 * part.lora_B @ part.lora_A, rtol=0, atol=1e-4)
        torch.testing.assert_close(stack.arrow[row], stack.A(form)[0, 0])


def test_a_stack_of_members_alone_is_shared_whatever_else_is_in_the_library(make_library):
    library = make_library()
    library.add_many(
        [
            *named([make(seed) for seed in range(3)], kind="knowledge"),
            *named([make(9, lora_a=5), make(10, lora_a=6)], prefix="task"),
        ],
        progress=False,
    )
    assert library.stack(MODULES[0], "knowledge").shared is not None
    assert library.stack(MODULES[0], "task").shared is None
    library.compact()
    assert library.stack(MODULES[0], "knowledge").shared is not None


@pytest.mark.parametrize("change", ["values", "rank", "modules", "columns"])
def test_who_has_another_lora_a_is_no_member(make_library, change):
    other = {
        "values": lambda: make(7, lora_a=3),
        "rank": lambda: make(7, rank=RANK - 1),
        "modules": lambda: make(7, modules=MODULES[:1]),
        "columns": lambda: PeftAdapter(
            {m: p._replace(lora_A=p.lora_A.flip(1)) for m, p in make(7).modules.items()}
        ),
    }[change]()
    library = make_library()
    library.add_many(named([make(0), make(1)]) + named([other], prefix="other"), progress=False)
    stack = library.stack(MODULES[0], "task")
    assert stack.shared is None
    assert len(library.snapshot().families()) == 1
    for module, form in library.snapshot().forms("other0").items():
        assert same_update(form, other.modules[module], 1e-5)


def test_compaction_and_removal_keep_members_bit_for_bit(make_library):
    library = make_library("bfloat16")
    library.add_many(named([make(0), make(1, lora_a=1), make(2), make(3)]), progress=False)
    library.add(make(4), name="later")
    before = {name: library.snapshot().forms(name) for name in ("a1", "a2", "later")}
    library.remove("a0")
    assert library.compact() > 0
    assert library.compact() == 0
    library.verify()
    for name, forms in before.items():
        for module, form in library.snapshot().forms(name).items():
            torch.testing.assert_close(form.A, forms[module].A)
            assert torch.equal(form.B, forms[module].B)


def test_a_library_reopens_and_verifies_with_families(make_library):
    with make_library() as library:
        library.add_many(named([make(0), make(1)]), progress=False)
        path, fingerprint = library.path, library.fingerprint
    with AdapterLibrary.open(path, read_only=True) as library:
        assert library.verify().n_adapters == 2
        assert library.fingerprint == fingerprint
        assert library.stack(MODULES[0], "task").shared is not None


def test_only_a_library_with_families_asks_for_a_reader_that_knows_them(make_library):
    with make_library() as library:
        library.add_many(named([make(0), make(1, lora_a=1)]), progress=False)
        path = library.path
    assert format_of(path) == 2
    with AdapterLibrary.open(path) as library:
        library.add_many(named([make(2), make(3)], prefix="b"), progress=False)
    assert format_of(path, "= 4") == 3
    with pytest.raises(LibraryError, match="format 1 to 3"):
        AdapterLibrary.open(path)


def test_the_members_export_as_what_they_were(make_library, tmp_path):
    library = make_library()
    library.add_many(named([make(0), make(1)]), progress=False)
    library.export("a1", tmp_path / "out")
    other = make_library(name="other")
    other.add(tmp_path / "out")
    for module, form in other.snapshot().forms("out").items():
        assert same_update(form, make(1).modules[module], 1e-5)


def test_the_audit_tells_who_cannot_be_told_apart_and_under_which_score(make_library):
    with make_library() as library:
        library.add_many(named([make(1), make(2)]), progress=False)
        library.add(make(3, lora_a=9), name="other")
        found = audit(library)
        assert found.tied == (("a0", "a1"),)
        assert not found.is_clean
        assert "tied: 2 adapters (a0, a1) share lora_A" in str(found)
        assert audit(library, score="norm").tied == ()
