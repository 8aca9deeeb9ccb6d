"""PRAG: what is encoded, when, and that it is PEFT's adapter."""

from __future__ import annotations

import json
import threading
from contextlib import suppress
from dataclasses import replace

import pytest
import torch

from lag_engine import LAGEngine
from lag_engine.adapters import AdapterLibrary, AdapterSource
from lag_engine.documents.passages import QuestionAnswer
from lag_engine.documents.prag import PRAG
from lag_engine.documents.prag_settings import PRAGSettings
from lag_engine.documents.stacked_lora import StackedLora
from lag_engine.errors import (
    AdapterMismatchError,
    DocumentError,
    DuplicateAdapterError,
    LagError,
    LibraryError,
)


def test_every_passage_gets_a_knowledge_adapter_of_the_mlp(prag, library, make_passage):
    passages = [make_passage(i) for i in range(3)]
    infos = prag().encode(passages)
    assert [info.document_id for info in infos] == ["p0", "p1", "p2"]
    assert {info.kind for info in infos} == {"knowledge"}
    assert {info.rank for info in infos} == {2}
    assert infos[0].modules == tuple(
        f"model.layers.{i}.mlp.{p}_proj" for i in (0, 1) for p in ("down", "gate", "up")
    )
    assert infos[1].name == "prag-p1"
    assert infos[1].metadata["revision"] == prag().revision(passages[1])
    assert len(library) == 3


def test_the_defaults_are_the_papers(pico):
    settings = PRAGSettings()
    options = settings.training(pico.model, window=5)
    assert (options.rank, options.scaling, options.learning_rate) == (2, 16, 3e-4)
    assert (options.clip, options.schedule, options.optimizer) == (None, "constant", "adamw")
    assert options.lora_a_decay == options.lora_b_decay == 0.01  # of torch's AdamW
    assert settings.batch_size == 1


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("batch_size", [1, 2])
def test_an_adapter_equals_the_papers_loop_with_peft(prag, pico, make_passage, deltas, batch_size):
    settings = PRAGSettings(epochs=2, batch_size=batch_size)
    encoder = prag(settings)
    passages = [make_passage(0), make_passage(1, words="It is known. " * 3)]
    encoder.encode(passages)
    for passage in passages:
        expected = peft_deltas(encoder, pico, passage)
        for name, ours in deltas(encoder.adapter_name(passage)).items():
            assert (ours - expected[name]).norm() < 2e-3 * expected[name].norm(), name


def peft_deltas(encoder, pico, passage):
    """The dense updates after the loop of the paper's code: AdamW, one sequence after another."""
    from peft import LoraConfig, get_peft_model

    settings = encoder.settings
    (work,) = encoder._prepare([passage])
    names = encoder._targets
    starts = {
        name: StackedLora(
            pico.model.get_submodule(name),
            1,
            settings.training(pico.model, window=1),
            [work.seed],
        )
        for name in names
    }
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        target_modules=list(settings.targets),
        lora_dropout=0.0,
    )
    peft = get_peft_model(pico.model, config)
    layers = {name: peft.base_model.model.get_submodule(name) for name in names}
    with torch.no_grad():
        for name, layer in layers.items():
            layer.lora_A["default"].weight.copy_(starts[name].lora_A[0])
    optimizer = torch.optim.AdamW(
        [p for p in peft.parameters() if p.requires_grad], lr=settings.learning_rate
    )
    rows = [list(sequence.ids) for sequence in work.sequences]
    size = settings.batch_size
    for _ in range(settings.epochs):
        for start in range(0, len(rows), size):
            ids, mask, labels = padded(rows[start : start + size])
            optimizer.zero_grad()
            peft(input_ids=ids, attention_mask=mask, labels=labels).loss.backward()
            optimizer.step()
    found = {name: layer.get_delta_weight("default").detach() for name, layer in layers.items()}
    peft.unload()
    return found


def padded(rows):
    length = max(map(len, rows))
    ids = torch.tensor([row + [0] * (length - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
    return ids, mask, ids.masked_fill(mask == 0, -100)


def test_an_adapter_does_not_depend_on_what_trains_with_it(
    prag, pico, tmp_path, make_passage, deltas
):
    passages = [make_passage(i, words="And so on. " * (i % 3)) for i in range(4)]
    prag().encode(passages)
    with AdapterLibrary.create(tmp_path / "alone", base_model=pico.model) as alone:
        prag(library=alone, memory_gib=1e-9).encode(passages[2:3])
        for name, ours in deltas("prag-p2").items():
            theirs = deltas("prag-p2", alone)[name]
            assert (ours - theirs).norm() < 1e-3 * theirs.norm()


def test_what_is_current_is_left_alone(prag, library, make_passage):
    passages = [make_passage(i) for i in range(3)]
    first = prag().encode(passages)
    generation = library.generation
    again = prag().encode([*passages[::-1], make_passage(3)])
    assert again[2::-1] == first
    assert library.generation == generation + 1
    assert all(prag().is_current(make_passage(i)) for i in range(4))


def test_a_changed_passage_is_replaced_and_the_others_stay(prag, library, make_passage):
    first = prag().encode([make_passage(i) for i in range(3)])
    changed = replace(make_passage(1), text="Ada Brandt was never born.")
    assert not prag().is_current(changed)
    second = prag().encode([make_passage(0), changed, make_passage(2)])
    assert (second[0], second[2]) == (first[0], first[2])
    assert second[1].sha256 != first[1].sha256
    assert len(library) == 3


@pytest.mark.parametrize(
    "change",
    [{"epochs": 4}, {"rank": 3}, {"prompt": "Q: {question}"}, {"seed": 1}],
    ids=lambda change: next(iter(change)),
)
def test_other_settings_are_another_revision(prag, make_passage, change):
    passage, encoder = make_passage(0), prag()
    encoder.encode([passage])
    other = prag(replace(encoder.settings, **change))
    assert not other.is_current(passage)
    assert other.revision(passage) != encoder.revision(passage)


def test_another_base_model_is_another_revision(prag, pico, tmp_path, make_passage):
    with AdapterLibrary.create(tmp_path / "b", base_model=pico.model, base_name="other") as other:
        assert prag(library=other).revision(make_passage(0)) != prag().revision(make_passage(0))


def test_encoding_is_deterministic(prag, pico, tmp_path, library, make_passage):
    passages = [make_passage(i) for i in range(3)]
    prag().encode(passages)
    with AdapterLibrary.create(tmp_path / "b", base_model=pico.model, base_name="pico") as other:
        prag(library=other).encode(passages)
        assert other.fingerprint == library.fingerprint


def test_passages_start_apart_unless_the_start_is_shared(prag, make_passage):
    passages = [make_passage(0), make_passage(1)]
    apart = {work.seed for work in prag()._prepare(passages)}
    shared = {work.seed for work in prag(PRAGSettings(shared_start=True))._prepare(passages)}
    assert (len(apart), len(shared)) == (2, 1)


def test_passages_of_one_lora_a_are_one_family_though_they_join_one_by_one(
    prag, library, make_passage
):
    settings = PRAGSettings(shared_lora_A=True)
    for i in range(3):
        prag(settings).encode([make_passage(i)])
    for module in library.modules():
        assert library.stack(module, "knowledge").shared is not None
    library.verify()


def test_a_passage_is_likeliest_under_its_own_adapter(prag, pico, library, make_passage):
    passages = [make_passage(i, pairs=0, rewrites=0) for i in range(3)]
    prag(PRAGSettings(learning_rate=0.02, epochs=10, alpha=4)).encode(passages)
    with LAGEngine(pico.model, pico.tokenizer, library, name="pico") as engine:
        plans = [engine.plan("prag", adapters=[f"prag-p{i}"]) for i in range(3)]
        scores = torch.tensor(
            [[engine.score(p.title, p.text, plan=plan) for plan in plans] for p in passages]
        )
    assert scores.argmax(1).tolist() == [0, 1, 2]


def test_an_engines_model_is_trained_between_its_answers(
    prag, pico, library, make_passage, tmp_path
):
    plain = [replace(make_passage(i), pairs=(), rewrites=()) for i in range(2)]
    with AdapterLibrary.create(tmp_path / "b", base_model=pico.model, base_name="pico") as other:
        prag(library=other, augment=lambda p: replace(p, rewrites=("again",))).encode(plain)
        expected = other.fingerprint
    with LAGEngine(pico.model, pico.tokenizer, library, name="pico") as engine:

        def ask_the_engine(passage):
            engine.generate(passage.text, plan="base", max_new_tokens=2)
            return replace(passage, rewrites=("again",))

        before = engine.generate("Rosa", plan="base", max_new_tokens=4).text
        encoder = PRAG.from_engine(
            engine, settings=prag().settings, augment=ask_the_engine, progress=False
        )
        encoder.encode(plain)
        assert library.fingerprint == expected
        assert engine.generate("Rosa", plan="base", max_new_tokens=4).text == before
        plan = engine.plan("prag", adapters=["prag-p0"])
        assert engine.generate("Rosa", plan=plan, max_new_tokens=4).text


def test_an_engine_without_library_cannot_encode(pico):
    with (
        LAGEngine(pico.model, pico.tokenizer) as engine,
        pytest.raises(LibraryError, match="with a library"),
    ):
        PRAG.from_engine(engine)


def test_augmentation_runs_only_for_what_is_not_current(prag, make_passage):
    asked = []

    def augment(passage):
        asked.append(passage.id)
        return replace(passage, pairs=(QuestionAnswer("who?", passage.title),))

    plain = [replace(make_passage(i), pairs=(), rewrites=()) for i in range(3)]
    prag(augment=augment).encode(plain[:2])
    prag(augment=augment).encode(plain)
    assert asked == ["p0", "p1", "p2"]
    assert not prag().is_current(plain[0]), "without the augmentation it is another adapter"


def test_an_early_stop_is_told_in_the_adapters_metadata_and_the_log(prag, tmp_path, make_passage):
    settings = PRAGSettings(learning_rate=0.02, alpha=4, epochs=6)
    log = tmp_path / "logs" / "losses.jsonl"
    (full,) = prag(settings, loss_log=log).encode([make_passage(0)])
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert [row["epochs"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert rows[-1]["loss"] == full.metadata["loss"] < rows[0]["loss"]
    early = replace(settings, stop_loss=rows[2]["loss"])
    (stopped,) = prag(early).encode([make_passage(0)])
    assert stopped.metadata["epochs"] == 3
    assert stopped.metadata["loss"] == pytest.approx(rows[2]["loss"], rel=1e-4)


def test_a_loss_that_is_not_finite_names_the_passage_and_adds_nothing(prag, library, make_passage):
    settings = PRAGSettings(learning_rate=1e38, optimizer="sgd", epochs=3)
    with pytest.raises(DocumentError, match=r"'p0'.*[Ll]ower the learning rate"):
        prag(settings).encode([make_passage(0)])
    assert len(library) == 0


def test_the_name_of_a_foreign_adapter_is_not_taken(prag, library, make_passage):
    prag().encode([make_passage(0)])
    library.rename("prag-p0", "prag-p1")
    with pytest.raises(DuplicateAdapterError, match=r"'prag-p1'.*'p0'"):
        prag().encode([make_passage(1)])


def test_two_passages_of_one_id_are_refused_before_training(prag, library, make_passage):
    with pytest.raises(DocumentError, match="'p0'"):
        prag().encode([make_passage(0), make_passage(0)])
    assert len(library) == 0


def test_a_read_only_library_is_refused_before_training(prag, library):
    with (
        AdapterLibrary.open(library.path, read_only=True) as reader,
        pytest.raises(LibraryError, match="read_only"),
    ):
        prag(library=reader)


def test_a_library_of_another_model_is_refused_before_training(prag, make_model, tmp_path):
    model = make_model("llama")
    model.model.layers[0].mlp.up_proj = torch.nn.Linear(32, 50, bias=False)
    with (
        AdapterLibrary.create(tmp_path / "b", base_model=model) as other,
        pytest.raises(AdapterMismatchError, match="up_proj"),
    ):
        prag(library=other)


def test_targets_that_the_model_lacks_are_refused(prag):
    with pytest.raises(AdapterMismatchError, match="'fc1'"):
        prag(PRAGSettings(targets=("up_proj", "fc1")))
    with pytest.raises(AdapterMismatchError, match="layers"):
        prag(PRAGSettings(layers=(7,)))


def test_layers_and_targets_narrow_what_is_adapted(prag, make_passage):
    (info,) = prag(PRAGSettings(layers=(1,), targets=("up_proj",))).encode([make_passage(0)])
    assert info.modules == ("model.layers.1.mlp.up_proj",)


@pytest.mark.parametrize(
    "wrong",
    [{"rank": 0}, {"epochs": 0}, {"prompt": "no field"}, {"prompt_with_passage": "{question}"}],
)
def test_settings_that_mean_nothing_are_refused(wrong):
    with pytest.raises(DocumentError, match="Expected"):
        PRAGSettings(**wrong)


def test_progress_goes_to_standard_error_or_nowhere(prag, make_passage, capsys):
    prag(progress=True).encode([make_passage(0)])
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "1/1" in shown.err
    assert "passages/s" in shown.err
    prag(progress=True).encode([make_passage(0)])
    prag(progress=False).encode([make_passage(1)])
    assert capsys.readouterr().err == ""


def test_other_adapters_of_the_library_stay(prag, library, make_passage):
    prag().encode([make_passage(0)])
    forms = library.snapshot().forms("prag-p0")
    assert forms
    library.export("prag-p0", library.path.parent / "task")
    library.add_many([AdapterSource(library.path.parent / "task", "task")], progress=False)
    before = library.info("task")
    prag().encode([replace(make_passage(0), text="Changed.")])
    assert library.info("task") == before


def test_an_interrupted_wait_ends_the_training_on_the_engines_thread(
    prag, pico, library, make_passage, monkeypatch
):
    settings = replace(prag().settings, epochs=10**6)
    with LAGEngine(pico.model, pico.tokenizer, library, name="pico") as engine:
        encoder = PRAG.from_engine(engine, settings=settings, progress=False)
        lend = encoder._lend

        def interrupted(work):
            def wait():
                with suppress(LagError):
                    lend(work)

            threading.Thread(target=wait).start()
            raise KeyboardInterrupt

        monkeypatch.setattr(encoder, "_lend", interrupted)
        with pytest.raises(KeyboardInterrupt):
            encoder.encode([make_passage(0)])
    assert engine.is_closed
    assert not library.list()
