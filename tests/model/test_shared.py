"""Adapters that share lora_A are routed behind one basis, with the same answers as without it."""

from __future__ import annotations

import functools

import pytest
import torch

from lag_engine.adapters import AdapterLibrary, AdapterSource, LoraModule, PeftAdapter
from lag_engine.errors import AdapterWarning
from lag_engine.model.activation import Part
from lag_engine.model.bank import AdapterBank
from lag_engine.model.kernels import CPP, kernel_status
from lag_engine.model.resolved import ResolvedSelection
from lag_engine.model.surgery import install
from lag_engine.routing import (
    GROUPED,
    LAG,
    REFERENCE,
    Arrow,
    Pinned,
    Plan,
    Recorder,
    Routed,
    SpectR,
)

CPU = torch.device("cpu")
MODULE = "model.layers.0.mlp.up_proj"
MODULES = (MODULE, "model.layers.1.mlp.up_proj")
N, RANK = 130, 3
ROUTERS = [
    Arrow(1),
    Arrow(4, 0.5),
    SpectR(1, "norm"),
    SpectR(3, "relative"),
    LAG(5, "norm"),
    LAG(N, "norm"),
    LAG(7, "relative", floor=0.6),
    LAG("adaptive", "norm"),
]
PLANS = {
    "arrow": Plan.from_mode("arrow", top_k=2),
    "spectr": Plan.from_mode("spectr", score="norm"),
    "lag": Plan.from_mode("lag", retrieve_k=3, score="norm"),
    "prag": Plan.from_mode("prag", adapters={"doc1": 1, "doc4": -0.5}),
}


def make(seed: int, *, lora_a: int) -> PeftAdapter:
    a, b = (torch.Generator().manual_seed(s) for s in (1000 + lora_a, seed))
    factors = {
        module: (torch.randn(RANK, 32, generator=a), torch.randn(48, RANK, generator=b))
        for module in MODULES
    }
    return PeftAdapter({m: LoraModule(A, 0.1 * B, 1.0 + seed % 3) for m, (A, B) in factors.items()})


@pytest.fixture(scope="module")
def make_library(tmp_path_factory):
    """A library whose documents share lora_A, as a family or as if they did not; made once."""
    folder = tmp_path_factory.mktemp("shared")

    @functools.cache
    def make_one(*, shared: bool, n: int = N, others: int = 0, dtype="float64") -> AdapterLibrary:
        path = folder / f"{shared}-{n}-{others}-{dtype}"
        library = AdapterLibrary.create(path, base_model=None, dtype=dtype)
        members = [
            AdapterSource(make(seed, lora_a=0), name=f"doc{seed}", kind="knowledge")
            for seed in range(n)
        ]
        tasks = [AdapterSource(make(i, lora_a=i), name=f"task{i}") for i in range(1, 4)]
        foreign = [
            AdapterSource(make(i, lora_a=i), name=f"other{i}", kind="knowledge")
            for i in range(1, 1 + others)
        ]
        offers = [*members, *tasks, *foreign]
        # One by one, none has anybody to share with.
        for batch in [offers] if shared else [[offer] for offer in offers]:
            library.add_many(batch, progress=False)
        assert (library.stack(MODULE, "knowledge").shared is not None) == (shared and not others)
        return library

    return make_one


@pytest.fixture
def both(make_library):
    return [make_library(shared=shared) for shared in (True, False)]


def active(library, selection):
    return ResolvedSelection(AdapterBank(library), "knowledge", selection).active(MODULE, CPU)


def inputs(n_tokens: int, dtype=torch.float64):
    return torch.randn(n_tokens, 32, generator=torch.Generator().manual_seed(4), dtype=dtype)


def by_row(update):
    """The choice with each token's adapters in the order of their rows."""
    order = update.rows.argsort(-1)
    return [part.gather(-1, order) for part in (update.rows, update.scores, update.weights)]


def assert_same(ours, theirs, tolerance):
    for one, other in zip(by_row(ours), by_row(theirs), strict=True):
        torch.testing.assert_close(one, other, **tolerance)
    torch.testing.assert_close(ours.total, theirs.total, **tolerance)


@pytest.mark.parametrize("form", [GROUPED, REFERENCE], ids=lambda form: form.name)
@pytest.mark.parametrize("n_tokens", [1, 6])
def test_every_router_chooses_as_without_the_basis(both, form, n_tokens):
    x = inputs(n_tokens)
    for router in ROUTERS:
        shared, plain = (active(library, Routed(router)).update(x, form) for library in both)
        assert_same(shared, plain, {"rtol": 1e-10, "atol": 1e-10})


@pytest.mark.skipif(not kernel_status().is_ready, reason="the operator cannot be built here")
@pytest.mark.parametrize("n_tokens", [1, 6, 20])
def test_the_compiled_operator_chooses_as_without_the_basis(make_library, n_tokens):
    both = [make_library(shared=shared, dtype="float32") for shared in (True, False)]
    x = inputs(n_tokens, torch.float32)
    for router in ROUTERS:
        shared, plain = (active(library, Routed(router)) for library in both)
        assert (shared.fused(CPP) is None) == isinstance(router, SpectR)
        found = shared.update(x, CPP)
        assert_same(found, plain.update(x, CPP), {"rtol": 1e-4, "atol": 1e-4})
        out = torch.ones_like(found.total)
        fused = shared.fused(CPP)
        if fused is not None:
            torch.testing.assert_close(fused.added(out, x), out + found.total)


def test_the_norm_score_finds_the_largest_update_of_all(both):
    x = inputs(9)
    updates = torch.stack(
        [
            x @ (part.scaling * part.lora_B @ part.lora_A).double().T
            for part in (make(seed, lora_a=0).modules[MODULE] for seed in range(N))
        ],
        dim=1,
    )  # (T, N, D_out)
    sizes = torch.linalg.vector_norm(updates, dim=-1)
    found = active(both[0], Routed(SpectR(1, "norm"))).update(x, GROUPED)
    assert torch.equal(found.rows[:, 0], sizes.argmax(-1))
    torch.testing.assert_close(found.scores[:, 0], sizes.amax(-1), rtol=1e-5, atol=1e-5)


def test_candidates_are_respected_behind_the_basis(both):
    names = ["doc3", "doc77", "doc129"]
    x = inputs(5)
    for router in (SpectR(2, "norm"), LAG(2, "norm"), Arrow(3)):
        shared, plain = (active(lib, Routed(router, names)).update(x, GROUPED) for lib in both)
        assert {3, 77, 129} >= set(shared.rows.flatten().tolist())
        assert_same(shared, plain, {"rtol": 1e-10, "atol": 1e-10})


@pytest.mark.parametrize(("form", "dtype"), [(GROUPED, "float64"), (CPP, "float32")])
def test_members_beside_others_are_routed_as_ever(make_library, form, dtype):
    both = [make_library(shared=shared, n=12, others=2, dtype=dtype) for shared in (True, False)]
    x = inputs(6, getattr(torch, dtype))
    close = 1e-10 if dtype == "float64" else 1e-4
    for router in ROUTERS:
        shared, plain = (active(library, Routed(router)) for library in both)
        assert (shared.fused(form) is None) == (plain.fused(form) is None)
        ours, theirs = shared.update(x, form), plain.update(x, form)
        assert_same(ours, theirs, {"rtol": close, "atol": close})


def test_pinned_members_add_the_same(both):
    x = inputs(6)
    selection = Pinned({"doc2": 1.0, "doc9": -0.5})
    shared, plain = (active(library, selection).update(x, GROUPED) for library in both)
    torch.testing.assert_close(shared.total, plain.total, rtol=1e-10, atol=1e-10)
    assert torch.equal(shared.rows, plain.rows)


@torch.no_grad()
def run(model, library, plans, ids):
    """Logits, and the first plan's decisions."""
    recorder = Recorder()
    with install(model, AdapterBank(library)) as surgery:
        parts = [Part(surgery.resolve(plan), recorder=None) for plan in plans]
        parts[0] = parts[0]._replace(recorder=recorder)
        with surgery.activate(parts):
            logits = model(ids).logits
    return logits, recorder.decisions()


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("names", [*([name] for name in PLANS), list(PLANS)], ids="+".join)
def test_a_model_answers_and_tells_the_same(make_model, make_library, token_ids, names, dtype):
    plans = [PLANS[name] for name in names]
    model = make_model(dtype=getattr(torch, dtype))
    ids = token_ids(len(plans), 7)
    (shared, told), (plain, other) = (
        run(model, make_library(shared=shared, n=20, dtype=dtype), plans, ids)
        for shared in (True, False)
    )
    close = {"rtol": 1e-9, "atol": 1e-9} if dtype == "float64" else {"rtol": 1e-3, "atol": 1e-3}
    torch.testing.assert_close(shared, plain, **close)
    assert len(told) == len(other) > 0
    for ours, theirs in zip(told, other, strict=True):
        assert ours[:3] == theirs[:3]
        assert torch.equal(ours.rows.sort(-1).values, theirs.rows.sort(-1).values)


def test_a_score_that_cannot_tell_members_apart_is_told_once(both):
    selection = ResolvedSelection(AdapterBank(both[0]), "knowledge", Routed(LAG(5)))
    with pytest.warns(AdapterWarning, match="130 knowledge adapters have one lora_A") as told:
        slots = [selection.active(module, CPU) for module in MODULES]
    assert len(slots) == 2
    assert len(told) == 1
    active(both[1], Routed(LAG(5)))
    active(both[0], Routed(LAG(5, "norm")))


def test_an_arrow_vector_is_not_made_for_what_the_basis_serves(both):
    library = AdapterLibrary.open(both[0].path, read_only=True)
    slot = active(library, Routed(LAG(5, "norm")))
    slot.update(inputs(3), GROUPED)
    assert "arrow" not in vars(slot.stack)
    assert "arrow" not in vars(library.stack(MODULE, "knowledge"))
