from __future__ import annotations

import shutil

import pytest

from lag_engine import AdapterLibrary, EvaluationError, read_peft
from lag_engine.adapters import AdapterSource
from lag_engine.documents import Passage
from lag_engine.evaluation import BorrowedAdapters, Settings, System
from lag_engine.routing import Generated, Plan

PASSAGES = [Passage(f"d{i}", "text") for i in range(3)]


@pytest.fixture
def second(on_disk, tmp_path):
    """A second library in which each document has another one's adapter."""

    def make(adapters):
        path = tmp_path / "second"
        with AdapterLibrary.create(path, base_model=on_disk.model) as library:
            for document, name in adapters.items():
                adapter = read_peft(on_disk.adapters / name)
                source = AdapterSource(adapter, f"second-{document}", "knowledge", document)
                library.add_many([source], progress=False)
        return path

    return make


def test_a_document_gets_the_second_librarys_adapter(engine, experiment, second, tmp_path):
    shuffled = second({"d0": "doc-1", "d1": "doc-2", "d2": "doc-0"})
    control, usual = System("prag+lag", encoding="shuffled"), System("prag", document="right")
    results = experiment(
        [control, usual],
        makers={"shuffled": BorrowedAdapters(engine, shuffled)},
        settings=Settings(max_new_tokens=3),
    ).run(tmp_path / "results.jsonl", progress=False)
    assert list(results.systems) == [control, usual]
    ids = engine.tokenizer("Who is Rosa?", return_tensors="pt").input_ids
    with BorrowedAdapters(engine, shuffled).generated(PASSAGES) as names:
        for name, own in zip(names, ("doc-1", "doc-2", "doc-0"), strict=True):
            lent = engine.logits(ids, plan=Plan("dyprag", knowledge=Generated([name])))
            pinned = engine.logits(ids, plan=engine.plan("prag", adapters=[own]))
            assert (lent - pinned).abs().max() < 1e-4


def test_one_adapter_serves_every_document(engine, second):
    with BorrowedAdapters(engine, second({"all": "doc-1"})).generated(PASSAGES) as names:
        assert len(names) == 3
        assert len(set(names)) == 1


def test_a_document_without_an_adapter_is_told(engine, second):
    borrowed = BorrowedAdapters(engine, second({"d0": "doc-0", "d1": "doc-1"}))
    with pytest.raises(EvaluationError, match="'d2'"), borrowed.generated(PASSAGES):
        pass


def test_a_library_without_knowledge_adapters_is_refused(engine, second):
    with pytest.raises(EvaluationError, match="knowledge adapters"):
        BorrowedAdapters(engine, second({}))


def test_a_library_that_was_swapped_does_not_go_on_in_the_same_file(
    engine, experiment, second, tmp_path
):
    path = second({"d0": "doc-1", "d1": "doc-2", "d2": "doc-0"})

    def run(mode, encoding):
        made = experiment(
            [System(mode, encoding=encoding)],
            makers={name: BorrowedAdapters(engine, path) for name in ("shuffled", "other")},
            settings=Settings(max_new_tokens=1),
        )
        return made.run(tmp_path / "results.jsonl", progress=False)

    run("prag", "shuffled")
    assert len(run("oracle", "shuffled").systems) == 2
    shutil.rmtree(path)
    second({"d0": "doc-2", "d1": "doc-0", "d2": "doc-1"})
    with pytest.raises(EvaluationError, match="the shuffled adapters"):
        run("prag", "shuffled")
    assert len(run("prag", "other").systems) == 3, "another encoding may join"
