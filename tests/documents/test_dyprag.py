"""DyPRAG: a translator from passages to adapters, and what it makes at question time."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace

import pytest
import torch

from lag_engine import LAGEngine
from lag_engine.adapters import AdapterLibrary, LoraModule, PeftAdapter
from lag_engine.documents.dyprag import DyPRAG
from lag_engine.documents.dyprag_factors import ModuleFactors, stacked_factors, updates_of
from lag_engine.documents.dyprag_files import load_translator, save_translator
from lag_engine.documents.dyprag_settings import DyPRAGSettings
from lag_engine.documents.dyprag_training import train_translator
from lag_engine.documents.dyprag_translator import Translator, last_hidden, start_of
from lag_engine.documents.grouping import Work, batches_of
from lag_engine.documents.hooked_updates import hooked
from lag_engine.documents.prag_settings import PRAGSettings
from lag_engine.documents.sequences import SequenceBuilder
from lag_engine.documents.token_losses import predicted
from lag_engine.errors import AdapterFormatError, AdapterMismatchError, DocumentError

SETTINGS = DyPRAGSettings(alpha=4, learning_rate=0.01, epochs=6, step_passages=2)
PRAG_SETTINGS = PRAGSettings(learning_rate=0.02, epochs=3, alpha=4, shared_start=True)
IDS = torch.tensor([[1, 40, 41, 42, 99, 7]])


@pytest.fixture
def passages(make_passage):
    return [make_passage(i, words="Or so.") for i in range(4)]


@pytest.fixture
def train(pico, library, prag, passages):
    """Encodes the passages by PRAG and trains a translator on them."""

    def run(settings=SETTINGS, **options) -> Translator:
        prag(PRAG_SETTINGS).encode(passages)
        return train_translator(
            pico.model,
            pico.tokenizer,
            library,
            passages,
            settings=settings,
            progress=False,
            **options,
        )

    return run


@pytest.fixture
def quick(train):
    """A translator that was trained for a moment; its B nets are no longer zero."""
    return train(replace(SETTINGS, epochs=1))


def merged(model, *adapters):
    """A copy of the model with adapters' updates added to its weights, scaling and all."""
    copy = deepcopy(model)
    with torch.no_grad():
        for adapter in adapters:
            for module, part in adapter.modules.items():
                delta = part.scaling * part.lora_B @ part.lora_A
                copy.get_submodule(module).weight += delta
    return copy


def generated_logits(pico, library, translator, passages):
    """What an engine computes under the passages' generated adapters."""
    with (
        LAGEngine(pico.model, pico.tokenizer, library) as engine,
        DyPRAG(engine, translator).generated(passages) as names,
    ):
        return engine.logits(IDS, plan=engine.plan("dyprag", adapters=names))


def test_all_three_losses_fall_in_training(train):
    steps = []
    train(on_step=lambda step, losses: steps.append(losses))
    n = len(steps) // 6
    for part in ("tokens", "divergence", "distance"):
        first, last = (
            torch.stack([getattr(losses, part).mean() for losses in some]).mean()
            for some in (steps[:n], steps[-n:])
        )
        assert last < first, part


def test_a_passages_own_generated_adapter_helps_more_than_anothers(train, pico, library, passages):
    translator = train(replace(SETTINGS, epochs=15))
    with LAGEngine(pico.model, pico.tokenizer, library) as engine:
        dyprag = DyPRAG(engine, translator)
        with dyprag.generated(passages) as names:

            def loss(i, plan):
                pair = passages[i].pairs[-1]
                prompt = [{"role": "user", "content": pair.question}]
                return -engine.score(prompt, pair.answer, plan=plan)

            plans = [engine.plan("dyprag", adapters=[name]) for name in names]
            base = sum(loss(i, "base") for i in range(4))
            own = sum(loss(i, plans[i]) for i in range(4))
            other = sum(loss(i, plans[j]) for i in range(4) for j in range(4) if j != i) / 3
    assert own < base
    assert own < other


def test_scaling_is_part_of_what_is_applied(quick, pico, library, passages):
    """The published code generates factors for a scaled LoRA and applies them unscaled."""
    made = quick.adapters(pico.model, pico.tokenizer, passages[:1])["dyprag-p0"]
    assert {part.scaling for part in made.modules.values()} == {2.0}
    expected = merged(pico.model, made)(IDS).logits
    unscaled = PeftAdapter({m: p._replace(scaling=1.0) for m, p in made.modules.items()})
    defect = merged(pico.model, unscaled)(IDS).logits
    found = generated_logits(pico, library, quick, passages[:1])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert (found - defect).norm() > 0.1 * (expected - pico.model(IDS).logits).norm()


def test_training_applies_what_the_engine_will_apply(quick, pico, passages):
    """Scaling included, on both sides of training: of what is made, and of the PRAG adapter."""
    sequences = SequenceBuilder(pico.tokenizer, SETTINGS.style)
    work = [Work(passage, sequences.of(passage), 0, "") for passage in passages[:2]]
    [batch, *_] = batches_of(work, rows=1, pad=0)
    hidden = torch.stack([last_hidden(pico.model, pico.tokenizer, p) for p in passages[:2]])
    with hooked(pico.model, updates_of(quick(hidden))):
        found = predicted(pico.model, batch, "fp32").losses()
    adapters = list(quick.adapters(pico.model, pico.tokenizer, passages[:2]).values())
    for g, adapter in enumerate(adapters):
        ids = torch.tensor([work[g].sequences[0].ids])
        expected = merged(pico.model, adapter)(ids, labels=ids).loss
        assert found[g].item() == pytest.approx(expected.item(), rel=1e-4)
    stored = stacked_factors([adapter.modules for adapter in adapters], torch.device("cpu"))
    with hooked(pico.model, updates_of(stored)):
        torch.testing.assert_close(predicted(pico.model, batch, "fp32").losses(), found)


def test_updates_of_several_passages_are_summed_and_factors_never_averaged(
    quick, pico, library, passages
):
    """The published code averages the A factors, and the B factors, of the retrieved passages."""
    one, two = quick.adapters(pico.model, pico.tokenizer, passages[:2]).values()
    expected = merged(pico.model, one, two)(IDS).logits
    averaged = PeftAdapter(
        {
            module: LoraModule(
                (part.lora_A + two.modules[module].lora_A) / 2,
                (part.lora_B + two.modules[module].lora_B) / 2,
                part.scaling,
            )
            for module, part in one.modules.items()
        }
    )
    defect = merged(pico.model, averaged)(IDS).logits
    found = generated_logits(pico, library, quick, passages[:2])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert (found - defect).norm() > 0.1 * (expected - pico.model(IDS).logits).norm()


def test_nothing_is_written_and_nothing_is_left(quick, pico, library, passages):
    before = library.generation
    with LAGEngine(pico.model, pico.tokenizer, library) as engine:
        base = engine.logits(IDS, plan="base")
        with DyPRAG(engine, quick).generated(passages) as names:
            assert len(names) == len(set(names)) == 4
            answer = engine.generate(
                "Who?", plan=engine.plan("dyprag+lag", adapters=names), max_new_tokens=3
            )
            assert answer.plan.knowledge.names == tuple(sorted(names))
        assert torch.equal(engine.logits(IDS, plan="base"), base)
    assert library.generation == before


def test_an_untrained_translator_changes_nothing_and_starts_where_prag_did(train, pico, passages):
    translator = train(replace(SETTINGS, learning_rate=0.0, weight_decay=0.0, epochs=1))
    made = translator.adapters(pico.model, pico.tokenizer, passages[:1])["dyprag-p0"]
    assert made.is_dead


def test_the_start_spans_what_the_adapters_share():
    random = torch.Generator().manual_seed(0)
    shared = torch.randn(2, 16, generator=random)
    rows = torch.cat(
        [
            torch.randn(2, 2, generator=random) @ shared
            + 0.01 * torch.randn(2, 16, generator=random)
            for _ in range(20)
        ]
    )
    start = start_of(rows, 2)
    torch.testing.assert_close(start @ start.T, torch.eye(2) / 3, atol=1e-5, rtol=1e-5)
    inside = torch.linalg.lstsq(start.T, shared.T).solution
    assert (start.T @ inside - shared.T).norm() < 0.05 * shared.norm()


def test_the_distance_of_updates_is_that_of_the_dense_ones():
    random = torch.Generator().manual_seed(0)

    def factors(rank, scaling):
        a = torch.randn(3, rank, 10, generator=random)
        return ModuleFactors(a, torch.randn(3, 7, rank, generator=random), scaling)

    ours, theirs = factors(2, 3.0), factors(4, 0.5)
    dense = [f.scaling * f.lora_B @ f.lora_A for f in (ours, theirs)]
    expected = (dense[0] - dense[1]).square().mean((1, 2))
    torch.testing.assert_close(ours.squared_distance(theirs), expected, rtol=1e-4, atol=1e-4)
    assert ours.squared_distance(ours).abs().max() < 1e-4


def test_the_input_is_the_passages_last_hidden_state(quick, pico, passages):
    hidden = last_hidden(pico.model, pico.tokenizer, passages[0])
    ids = torch.tensor([pico.tokenizer(passages[0].titled_text)["input_ids"]])
    out = pico.model(ids, output_hidden_states=True)
    torch.testing.assert_close(hidden, out.hidden_states[-1][0, -1])
    factors = quick(torch.stack([hidden, hidden + 1]))
    layers = [factors[f"model.layers.{i}.mlp.up_proj"].lora_B[0] for i in (0, 1)]
    assert not torch.allclose(*layers), "the layer is part of the input"


def test_passages_that_end_alike_are_still_told_apart(train, pico, passages):
    """All end in a full stop; a hundred times the size of what differs is common to all."""
    translator = train(replace(SETTINGS, epochs=1))
    states = torch.stack([last_hidden(pico.model, pico.tokenizer, p) for p in passages])
    offset = 100 * torch.ones(32)
    moved = Translator(translator.shape, states=states + offset, seed=3)
    plain = Translator(translator.shape, states=states, seed=3)
    moved.nets.load_state_dict(plain.nets.state_dict())
    for ours, theirs in zip(moved(states + offset).values(), plain(states).values(), strict=True):
        torch.testing.assert_close(ours.lora_A, theirs.lora_A, atol=1e-4, rtol=1e-3)
    made = translator(states)["model.layers.0.mlp.up_proj"].lora_B
    assert (made[0] - made[1]).norm() > 0.05 * made[0].norm()


def test_training_leaves_the_model_as_it_was(train, pico):
    before = [p.clone() for p in pico.model.parameters()]
    train(replace(SETTINGS, epochs=1))
    assert all(map(torch.equal, before, pico.model.parameters()))
    assert all(p.requires_grad for p in pico.model.parameters())
    assert not any(module._forward_hooks for module in pico.model.modules())


def test_two_trainings_from_one_seed_are_equal(train):
    one, two = (train(replace(SETTINGS, epochs=1)) for _ in range(2))
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, two.state_dict()[name])


def test_a_saved_translator_is_the_same_after_loading(quick, pico, tmp_path, passages):
    save_translator(quick, tmp_path / "t")
    save_translator(quick, tmp_path / "t")
    loaded = load_translator(tmp_path / "t", pico.model)
    assert loaded.shape == quick.shape
    ours, theirs = (
        t.adapters(pico.model, pico.tokenizer, passages[:1])["dyprag-p0"] for t in (quick, loaded)
    )
    for module, part in ours.modules.items():
        assert torch.equal(part.lora_B, theirs.modules[module].lora_B)
    assert sorted(p.name for p in (tmp_path / "t").iterdir()) == [
        "translator.json",
        "translator.safetensors",
    ]


def test_a_translator_of_another_base_model_is_refused(quick, pico, library, tmp_path):
    save_translator(quick, tmp_path / "t")
    other = deepcopy(pico.model)
    other.model.layers[0].mlp.up_proj = torch.nn.Linear(32, 40)
    with pytest.raises(AdapterMismatchError, match="other modules or widths"):
        load_translator(tmp_path / "t", other)
    named = deepcopy(pico.model)
    named.config._name_or_path = "someone/other-model"
    quick.shape.check(named)  # an unknown name contradicts nothing
    path = tmp_path / "t" / "translator.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model": "someone/pico"}))
    with pytest.raises(AdapterMismatchError, match="allow_other_base=True"):
        load_translator(tmp_path / "t", named)
    loaded = load_translator(tmp_path / "t", named, allow_other_base=True)
    with (
        LAGEngine(named, pico.tokenizer) as engine,
        pytest.raises(AdapterMismatchError, match="Expected someone/pico"),
    ):
        DyPRAG(engine, loaded)


def test_it_is_checked_and_used_on_a_model_under_surgery(quick, pico, library, passages):
    bare = quick.adapters(pico.model, pico.tokenizer, passages[:1])["dyprag-p0"]
    with LAGEngine(pico.model, pico.tokenizer, library) as engine:
        made = DyPRAG(engine, quick).adapters(passages[:1])["dyprag-p0"]
    for module, part in bare.modules.items():
        torch.testing.assert_close(part.lora_B, made.modules[module].lora_B)


def _cut(path):
    path.write_bytes(path.read_bytes()[:-10])


@pytest.mark.parametrize(
    ("break_it", "found"),
    [
        (lambda f: (f / "translator.json").unlink(), "No such file"),
        (lambda f: (f / "translator.json").write_text("{"), "Expecting property name"),
        (lambda f: (f / "translator.json").write_text('{"format": 9}'), "another version"),
        (lambda f: (f / "translator.safetensors").unlink(), "No such file"),
        (lambda f: _cut(f / "translator.safetensors"), "translator.safetensors"),
    ],
)
def test_broken_files_are_refused(quick, pico, tmp_path, break_it, found):
    save_translator(quick, tmp_path)
    break_it(tmp_path)
    with pytest.raises(AdapterFormatError, match=found):
        load_translator(tmp_path, pico.model)


def test_weights_of_another_translator_are_refused(quick, pico, tmp_path):
    save_translator(quick, tmp_path)
    path = tmp_path / "translator.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"rank": 3}))
    with pytest.raises(AdapterFormatError, match="size mismatch"):
        load_translator(tmp_path, pico.model)


def test_passages_without_prag_adapters_are_refused(pico, library, prag, passages):
    prag(PRAG_SETTINGS).encode(passages[:2])
    with pytest.raises(DocumentError, match="2 of 4 without, such as 'prag-p2'"):
        train_translator(pico.model, pico.tokenizer, library, passages, progress=False)
    prag(replace(PRAG_SETTINGS, targets=("up_proj",))).encode(passages[2:])
    with pytest.raises(DocumentError, match="others in 'prag-p2'"):
        train_translator(pico.model, pico.tokenizer, library, passages, progress=False)


def test_a_passage_too_long_to_read_is_refused(quick, pico, passages):
    long = replace(passages[0], text="word " * 400)
    with pytest.raises(DocumentError, match="at most 256 tokens"):
        quick.adapters(pico.model, pico.tokenizer, [long])


def test_training_that_diverges_says_so(train):
    with pytest.raises(DocumentError, match="finite loss"):
        train(replace(SETTINGS, learning_rate=1e30, clip=None))


def test_a_library_without_prag_adapters_is_told_how_to_get_them(pico, tmp_path, passages):
    with (
        AdapterLibrary.create(tmp_path / "empty", base_model=pico.model) as empty,
        pytest.raises(DocumentError, match="Encode them with PRAG first"),
    ):
        train_translator(pico.model, pico.tokenizer, empty, passages, progress=False)
