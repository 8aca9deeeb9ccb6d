"""The audit finds what is planted, by scores that are computed here once more, densely."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from lag_engine.adapters import LoraModule, PeftAdapter, audit
from lag_engine.errors import LibraryError

MODULE = "model.layers.0.self_attn.q_proj"


def scaled(adapter: PeftAdapter, factor: float, name: str) -> PeftAdapter:
    modules = {
        m: part._replace(scaling=part.scaling * factor) for m, part in adapter.modules.items()
    }
    return dataclasses.replace(adapter, modules=modules, source=name)


def noisy(adapter: PeftAdapter, size: float, name: str) -> PeftAdapter:
    generator = torch.Generator().manual_seed(9)
    modules = {
        m: LoraModule(
            part.lora_A,
            part.lora_B + size * torch.randn(part.lora_B.shape, generator=generator),
            part.scaling,
        )
        for m, part in adapter.modules.items()
    }
    return dataclasses.replace(adapter, modules=modules, source=name)


def dense(adapter: PeftAdapter) -> torch.Tensor:
    return torch.cat(
        [(part.scaling * part.lora_B @ part.lora_A).flatten() for part in adapter.modules.values()]
    )


@pytest.mark.filterwarnings("ignore:adapter-0 changes nothing")
@pytest.mark.filterwarnings("ignore:dead changes nothing")
def test_dead_adapters_are_found(library, make_adapter):
    library.add(make_adapter(1))
    library.add(scaled(make_adapter(0), 0.0, "dead"))
    report = audit(library)
    assert report.dead == ("dead",)
    assert not report.is_clean
    assert "dead: dead changes nothing" in str(report)


def test_exact_and_near_duplicates_are_found_with_their_cosine(library, make_adapter):
    adapter = make_adapter(0)
    library.add_many([make_adapter(i) for i in range(1, 6)], progress=False)
    library.add(adapter, name="original")
    library.add(adapter, name="copy", kind="knowledge")
    library.add(noisy(adapter, 0.02, "near"))
    report = audit(library)
    pairs = {frozenset(pair[:2]): pair for pair in report.duplicates}
    assert pairs.keys() == {
        frozenset(("original", "copy")),
        frozenset(("original", "near")),
        frozenset(("copy", "near")),
    }
    assert pairs[frozenset(("original", "copy"))].is_exact
    near = pairs[frozenset(("original", "near"))]
    expected = torch.cosine_similarity(dense(adapter), dense(noisy(adapter, 0.02, "")), dim=0)
    assert near.similarity == pytest.approx(float(expected), abs=1e-5)
    assert not near.is_exact


def test_the_same_update_at_another_size_is_a_duplicate_and_its_opposite_is_not(
    library, make_adapter
):
    adapter = make_adapter(0)
    library.add_many(
        [adapter, scaled(adapter, 3.0, "large"), scaled(adapter, -1.0, "opposite")], progress=False
    )
    report = audit(library)
    assert [pair[:2] for pair in report.duplicates] == [("adapter-0", "large")]


def test_an_adapter_of_large_norm_dominates_under_norm_but_not_under_the_others(
    library, make_adapter
):
    library.add_many([make_adapter(i) for i in range(8)], progress=False)
    library.add(scaled(make_adapter(8), 50.0, "loud"))
    assert [win.name for win in audit(library, score="norm").dominant] == ["loud"]
    for score in ("arrow", "projection", "relative"):
        assert audit(library, score=score).dominant == ()
    assert "dominant: loud wins 100%" in str(audit(library, score="norm"))


def test_a_higher_rank_dominates_under_projection(library, make_adapter):
    library.add_many([make_adapter(i, rank=1) for i in range(6)], progress=False)
    library.add(make_adapter(6, rank=16), name="wide")
    assert [win.name for win in audit(library, score="projection").dominant] == ["wide"]


@pytest.mark.parametrize("score", ["arrow", "projection", "norm", "relative"])
def test_shares_on_given_inputs_are_counted_right(library, make_adapter, score):
    adapters = [make_adapter(i, rank=1 + i % 3) for i in range(5)]
    library.add_many(adapters, progress=False)
    x = torch.randn(200, 32, generator=torch.Generator().manual_seed(1))
    report = audit(library, score=score, probe={MODULE: x})

    def score_of(adapter):
        part = adapter.modules[MODULE]
        _, s, v = torch.linalg.svd(part.scaling * part.lora_B @ part.lora_A)
        rank = part.lora_A.shape[0]
        z, s = x @ v[:rank].T, s[:rank]
        if score == "arrow":
            return z[:, 0].abs()
        if score == "projection":
            return z.norm(dim=1)
        return (z * s).norm(dim=1) / (s.norm() if score == "relative" else 1)

    winners = torch.stack([score_of(adapter) for adapter in adapters]).argmax(dim=0)
    found = {win.name: win.share for win in report.wins}
    for index, adapter in enumerate(adapters):
        assert found[adapter.source] == pytest.approx(float((winners == index).float().mean()))
    assert sum(found.values()) == pytest.approx(1.0)
    assert "given activations" in str(report)


def test_kinds_are_compared_among_themselves_and_an_only_adapter_is_not_blamed(
    library, make_adapter
):
    library.add(make_adapter(0), kind="task")
    library.add(scaled(make_adapter(1), 100.0, "only"), kind="knowledge")
    report = audit(library, score="norm")
    assert {win.name: win.share for win in report.wins} == {"adapter-0": 1.0, "only": 1.0}
    assert report.dominant == ()
    assert report.is_clean
    assert "nothing found" in str(report)


def test_an_empty_library_has_nothing_to_say(library):
    assert audit(library).is_clean


def test_the_audit_is_the_same_every_time(library, make_adapter):
    library.add_many([make_adapter(i) for i in range(6)], progress=False)
    assert audit(library) == audit(library.snapshot())


def test_a_probe_or_score_that_does_not_fit_is_refused(library, make_adapter):
    library.add(make_adapter(0))
    with pytest.raises(LibraryError, match=r"\(T, 32\)"):
        audit(library, probe={MODULE: torch.zeros(3, 8)})
    with pytest.raises(LibraryError, match="nowhere"):
        audit(library, probe={"nowhere": torch.zeros(3, 32)})
    with pytest.raises(LibraryError, match="'loudest'"):
        audit(library, score="loudest")
