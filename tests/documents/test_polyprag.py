"""Poly-PRAG: latent adapters trained once, a routing vector for each passage."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import replace

import pytest
import torch

from lag_engine import LAGEngine
from lag_engine.adapters import (
    AdapterLibrary,
    AdapterSource,
    LoraModule,
    MixtureSource,
    PeftAdapter,
)
from lag_engine.documents import polyprag as polyprag_module
from lag_engine.documents.latent_factors import LatentFactors
from lag_engine.documents.latent_routing import RoutingTable, mixing_weights, noise_of
from lag_engine.documents.polyprag import PolyPRAG
from lag_engine.documents.polyprag_settings import PolyPRAGSettings
from lag_engine.errors import DocumentError, DuplicateAdapterError, LibraryError

FAST = PolyPRAGSettings(
    n_latents=6,
    top_k=2,
    alpha=4,
    learning_rate=0.02,
    routing_rate=0.3,
    epochs=12,
    routing_epochs=12,
    step_passages=2,
)


@pytest.fixture
def polyprag(pico, library):
    def make(settings: PolyPRAGSettings = FAST, **options) -> PolyPRAG:
        options = {"library": library, "progress": False, **options}
        return PolyPRAG(pico.model, pico.tokenizer, settings=settings, **options)

    return make


QUICK = replace(FAST, epochs=1, routing_epochs=1)


def stored(library):
    """Every row of the manifest that says what is in the library, and the segments' bytes."""
    with sqlite3.connect(library.path / "manifest.sqlite") as db:
        rows = {
            table: db.execute(f"SELECT * FROM {table} ORDER BY id").fetchall()
            for table in ("adapters", "mixtures", "segments")
        }
    files = {p.name: p.read_bytes() for p in (library.path / "segments").iterdir()}
    return rows, files


def test_the_first_call_trains_latent_adapters_and_mixes_them_for_every_passage(
    polyprag, library, make_passage
):
    passages = [make_passage(i) for i in (2, 0, 1)]
    infos = polyprag(QUICK).encode(passages)
    assert [info.document_id for info in infos] == ["p2", "p0", "p1"]
    assert [info.name for info in library.list("mixture")] == [
        "polyprag-p2",
        "polyprag-p0",
        "polyprag-p1",
    ]
    assert [info.name for info in library.list("latent")] == [f"latent-{i:02d}" for i in range(6)]
    assert library.list("knowledge") == []
    assert infos[0].metadata["revision"] == polyprag(QUICK).revision(passages[0])
    assert infos[0].metadata["encoder"] == "polyprag"
    for info in infos:
        mixture = library.snapshot().mixture(info.name)
        assert tuple(mixture) == tuple(
            f"model.layers.{i}.mlp.{p}_proj" for i in (0, 1) for p in ("down", "gate", "up")
        )
        for weights in mixture.values():
            assert len(weights) == 2
            assert all(weight > 0 for weight in weights.values())
            assert sum(weights.values()) == pytest.approx(1, abs=2e-3)


def test_a_passage_more_trains_its_routing_vector_and_leaves_all_else_bit_for_bit(
    polyprag, library, make_passage
):
    passages = [make_passage(i) for i in range(3)]
    polyprag(QUICK).encode(passages)
    rows, files = stored(library)
    [*_, info] = polyprag(QUICK).encode([*passages, make_passage(3)])
    after, files_after = stored(library)
    assert files_after == files
    assert after["adapters"] == rows["adapters"]
    assert after["mixtures"][:-1] == rows["mixtures"]
    assert after["mixtures"][-1][1] == info.name == "polyprag-p3"


def test_a_later_passage_is_the_same_whatever_comes_with_it(polyprag, library, make_passage):
    polyprag(QUICK).encode([make_passage(i) for i in range(3)])
    later = [make_passage(i) for i in range(3, 7)]
    polyprag().library.remove("polyprag-p2")
    polyprag(QUICK).encode(later)
    together = [library.snapshot().mixture(f"polyprag-p{i}") for i in range(3, 7)]
    for i in range(3, 7):
        library.remove(f"polyprag-p{i}")
    for passage, expected in zip(later, together, strict=True):
        polyprag(QUICK).encode([passage])
        found = library.snapshot().mixture(f"polyprag-{passage.id}")
        for module, weights in expected.items():
            assert found[module] == pytest.approx(weights, abs=2e-3)


def test_current_passages_are_skipped_and_changed_ones_replaced(polyprag, library, make_passage):
    passages = [make_passage(i) for i in range(3)]
    polyprag(QUICK).encode(passages)
    generation, before = library.generation, stored(library)
    polyprag(QUICK).encode(passages)
    assert library.generation == generation
    passages[1] = replace(passages[1], text="Something else.")
    polyprag(QUICK).encode(passages)
    assert library.generation == generation + 1
    mixtures = stored(library)[0]["mixtures"]
    assert [row[1] for row in mixtures] == ["polyprag-p0", "polyprag-p2", "polyprag-p1"]
    assert mixtures[:2] == [before[0]["mixtures"][0], before[0]["mixtures"][2]]


def test_two_runs_from_one_seed_are_equal_and_other_seeds_differ(
    polyprag, library, pico, make_passage, tmp_path
):
    passages = [make_passage(i) for i in range(3)]
    polyprag(QUICK).encode(passages)
    for name, settings, is_equal in (
        ("same", QUICK, True),
        ("other", replace(QUICK, seed=1), False),
    ):
        with AdapterLibrary.create(tmp_path / name, base_model=pico.model) as again:
            polyprag(settings, library=again).encode(passages)
            assert (again.fingerprint == library.fingerprint) is is_equal


def test_training_lowers_a_passages_loss_more_than_anothers(polyprag, library, pico, make_passage):
    passages = [make_passage(i, words="Or so.") for i in range(4)]
    polyprag().encode(passages)
    names = [f"polyprag-p{i}" for i in range(4)]
    with LAGEngine(pico.model, pico.tokenizer, library) as engine:

        def loss(i, plan):
            pair = passages[i].pairs[-1]
            prompt = [{"role": "user", "content": pair.question}]
            return -engine.score(prompt, pair.answer, plan=plan)

        plans = [engine.plan("polyprag", adapters=[name]) for name in names]
        base = [loss(i, "base") for i in range(4)]
        own = [loss(i, plans[i]) for i in range(4)]
        other = [sum(loss(i, plans[j]) for j in range(4) if j != i) / 3 for i in range(4)]
    assert all(mine < theirs for mine, theirs in zip(own, base, strict=True))
    assert sum(own) < 0.9 * sum(other)


def test_what_is_stored_is_what_was_trained(polyprag, library, pico, make_passage, monkeypatch):
    """The update in training with the final weights equals the engine's by the library."""
    kept = {}
    original = polyprag_module.routed

    def spy(table, factors, *, top_k):
        kept["factors"] = factors
        return original(table, factors, top_k=top_k)

    monkeypatch.setattr(polyprag_module, "routed", spy)
    polyprag(QUICK).encode([make_passage(i) for i in range(2)])
    snapshot, factors = library.snapshot(), kept["factors"]
    mixture = snapshot.mixture("polyprag-p0")
    lora = snapshot.lora("polyprag-p0")
    for module, part in factors.modules.items():
        weights = torch.tensor([[mixture[module].get(name, 0.0) for name in factors.names]])
        x = torch.randn(5, part.A.shape[1], generator=torch.Generator().manual_seed(0))
        trained = part.update(weights)(x[None])[0].detach()
        held = x @ lora[module].lora_A.T @ lora[module].lora_B.T
        torch.testing.assert_close(trained, held, rtol=1e-3, atol=1e-5)
    again = LatentFactors.of_library(snapshot, pico.model)
    for module, part in factors.modules.items():
        weights = torch.rand(2, 6, generator=torch.Generator().manual_seed(1))
        x = torch.randn(2, 5, part.A.shape[1], generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(
            part.update(weights)(x).detach(),
            again.modules[module].update(weights)(x),
            rtol=1e-3,
            atol=1e-5,
        )


def test_the_mixed_update_is_the_weighted_sum_of_the_adapters(pico):
    name = "model.layers.0.mlp.up_proj"
    factors = LatentFactors.fresh(pico.model, [name], count=3, rank=2, scaling=2.0, seed=0)
    with torch.no_grad():
        factors.modules[name].B.normal_()
    parts = [adapter.modules[name] for adapter in factors.adapters().values()]
    weights, x = torch.tensor([[0.5, 0.0, 0.25], [0.0, 1.0, 0.0]]), torch.randn(4, 7, 32)
    found = factors.modules[name].update(weights)(x)
    for passage in range(2):
        delta = sum(
            w * part.scaling * part.lora_B @ part.lora_A
            for w, part in zip(weights[passage], parts, strict=True)
        )
        rows = slice(2 * passage, 2 * passage + 2)
        torch.testing.assert_close(found[rows], x[rows] @ delta.T, rtol=1e-4, atol=1e-5)


def test_at_most_top_k_latent_adapters_are_mixed_and_their_weights_sum_to_one():
    logits = torch.randn(3, 4, 10, generator=torch.Generator().manual_seed(0))
    for noise in (None, noise_of([1, 2, 3], 0, logits)):
        weights = mixing_weights(logits, top_k=3, noise=noise)
        assert (weights > 0).sum(-1).eq(3).all()
        torch.testing.assert_close(weights.sum(-1), torch.ones(3, 4))
    assert weights.topk(3).indices.ne(logits.topk(3).indices).any(), "noise explores"
    kept = mixing_weights(logits, top_k=3).topk(3).indices
    assert torch.equal(kept, logits.topk(3).indices)


def test_noise_is_a_passages_own():
    like = torch.zeros(2, 3, 4)
    assert torch.equal(noise_of([7, 8], 5, like)[1], noise_of([8, 9], 5, like)[0])
    assert not torch.equal(noise_of([7, 8], 5, like), noise_of([7, 8], 6, like))


def test_a_step_moves_no_other_passages_logits():
    table = RoutingTable([1, 2, 3], 2, 4, spread=1.0, device=torch.device("cpu"))
    before = table.weight.detach().clone()
    optimizer = torch.optim.SparseAdam(list(table.parameters()), lr=0.1)
    for _ in range(2):
        table.logits(torch.tensor([1])).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    moved = (table.weight != before).any(dim=1)
    assert moved.tolist() == [False, True, False]


def test_other_settings_train_everything_anew_or_nothing(polyprag, library, make_passage):
    passages = [make_passage(i) for i in range(3)]
    polyprag(QUICK).encode(passages)
    before = stored(library)
    other = replace(QUICK, n_latents=4)
    with pytest.raises(DocumentError, match=r"1 passages that mix these .*'polyprag-p2'"):
        polyprag(other).encode(passages[:2])
    assert stored(library) == before
    polyprag(other).encode(passages)
    assert [info.name for info in library.list("latent")] == [f"latent-{i:02d}" for i in range(4)]
    assert len(library.list("mixture")) == 3
    library.verify()


def test_latent_adapters_of_another_origin_are_not_taken_over(
    polyprag, library, pico, make_passage
):
    up = pico.model.get_submodule("model.layers.0.mlp.up_proj")
    part = LoraModule(torch.ones(1, up.in_features), torch.ones(up.out_features, 1), 1.0)
    library.add(PeftAdapter({"model.layers.0.mlp.up_proj": part}), name="mine", kind="latent")
    with pytest.raises(LibraryError, match="'mine', which came otherwise"):
        polyprag(QUICK).encode([make_passage(0)])


def test_a_foreign_entry_of_a_passages_name_is_refused(polyprag, library, pico, make_passage):
    up = pico.model.get_submodule("model.layers.0.mlp.up_proj")
    part = LoraModule(torch.ones(1, up.in_features), torch.ones(up.out_features, 1), 1.0)
    adapter = PeftAdapter({"model.layers.0.mlp.up_proj": part})
    library.add(adapter, name="polyprag-p0", kind="knowledge")
    with pytest.raises(DuplicateAdapterError, match="PolyPRAG did not make"):
        polyprag(QUICK).encode([make_passage(0)])


def test_an_interrupted_first_call_leaves_the_library_and_the_model_as_they_were(
    polyprag, library, pico, make_passage
):
    library.add_many(
        [AdapterSource(PeftAdapter({"model.layers.0.mlp.up_proj": _part(pico)}), "t")],
        progress=False,
    )
    before, weights = stored(library), [p.clone() for p in pico.model.parameters()]
    seen = []

    encoder = polyprag(QUICK)
    encoder._log.write = lambda rows: seen.append(rows) or _interrupt()
    with pytest.raises(KeyboardInterrupt):
        encoder.encode([make_passage(i) for i in range(3)])
    assert seen
    assert stored(library) == before
    assert all(map(torch.equal, weights, pico.model.parameters()))
    assert all(p.requires_grad for p in pico.model.parameters())
    assert not any(module._forward_hooks for module in pico.model.modules())


def _part(pico):
    up = pico.model.get_submodule("model.layers.0.mlp.up_proj")
    return LoraModule(torch.ones(1, up.in_features), torch.ones(up.out_features, 1), 1.0)


def _interrupt():
    raise KeyboardInterrupt


def test_training_that_diverges_adds_nothing(polyprag, library, make_passage):
    with pytest.raises(DocumentError, match="finite loss"):
        polyprag(replace(QUICK, learning_rate=1e30)).encode([make_passage(i) for i in range(2)])
    assert len(library) == 0


def test_losses_are_logged_and_noted(polyprag, library, make_passage, tmp_path):
    passages = [make_passage(i) for i in range(3)]
    polyprag(replace(QUICK, epochs=2), loss_log=tmp_path / "loss.jsonl").encode(passages)
    lines = [json.loads(line) for line in (tmp_path / "loss.jsonl").read_text().splitlines()]
    assert sorted(line["passage"] for line in lines) == sorted(["p0", "p1", "p2"] * 2)
    last = {line["passage"]: line["loss"] for line in lines if line["epochs"] == 2}
    for i in range(3):
        assert library.info(f"polyprag-p{i}").metadata["loss"] == last[f"p{i}"]


def test_it_trains_inside_an_engine_and_answers_at_once(library, pico, make_passage):
    with LAGEngine(pico.model, pico.tokenizer, library) as engine:
        encoder = PolyPRAG.from_engine(engine, settings=QUICK, progress=False)
        [info, _] = encoder.encode([make_passage(0), make_passage(1)])
        plan = engine.plan("polyprag", adapters=[info.name])
        answer = engine.generate("Who?", plan=plan, trace=True, max_new_tokens=3)
        assert any("latent" in name for name in answer.trace.share(slot="knowledge") if name)


def test_a_passage_takes_a_hundredth_of_the_room_of_an_adapter(tmp_path):
    """At 1,000 passages, with their share of 8 latent adapters, at the widths of a 1B model."""
    n, wide, modules = 1000, 2048, [f"model.layers.{i}.mlp.up_proj" for i in range(16)]
    latent = PeftAdapter({m: LoraModule(torch.ones(1, 4), torch.ones(4, 1), 1.0) for m in modules})
    weights = {m: {f"latent-{k:02d}": 0.25 for k in range(4)} for m in modules}
    notes = {"encoder": "polyprag", "revision": "0" * 16, "title": "A title", "loss": 1.234567}
    with AdapterLibrary.create(tmp_path / "many", base_model=None) as many:
        empty = _manifest_bytes(many)
        many.add_mixtures(
            [MixtureSource(f"polyprag-p{i}", weights, f"p{i}", notes) for i in range(n)],
            latents=[AdapterSource(latent, f"latent-{k:02d}", "latent") for k in range(4)],
        )
        per_passage = (_manifest_bytes(many) - empty) / n
    adapter_bytes = 4 * 2 * (wide + 4 * wide) * len(modules)
    assert per_passage < 600
    assert (per_passage + 8 * adapter_bytes / n) * 100 < adapter_bytes


def _manifest_bytes(library):
    with sqlite3.connect(library.path / "manifest.sqlite") as db:
        [pages], [size] = (
            db.execute(f"PRAGMA {name}").fetchone() for name in ("page_count", "page_size")
        )
    return pages * size


def test_only_what_latent_adapters_depend_on_trains_them_anew(polyprag, library, make_passage):
    passages = [make_passage(i) for i in range(3)]
    polyprag(QUICK).encode(passages)
    before = stored(library)
    polyprag(replace(QUICK, routing_epochs=2)).encode(passages[:1])
    after = stored(library)
    assert after[1] == before[1]
    assert after[0]["adapters"] == before[0]["adapters"]
    assert after[0]["mixtures"][:2] == before[0]["mixtures"][1:]


@pytest.mark.parametrize(
    "wrong", [{"n_latents": 0}, {"n_latents": 300}, {"top_k": 9, "n_latents": 8}, {"rank": 0}]
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(DocumentError, match="Expected"):
        PolyPRAGSettings(**wrong)
