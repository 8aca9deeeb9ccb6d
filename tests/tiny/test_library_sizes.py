"""Which documents make a library larger, and that a size is measured among so many."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lag_engine.evaluation import Results
from lag_engine.tiny import library_sizes
from lag_engine.tiny.library_sizes import main, many_entities
from lag_engine.tiny.shipped import document_id, documents
from lag_engine.tiny.world import known_world


def test_the_shipped_documents_come_first_and_the_others_are_unknown_to_the_base():
    entities = many_entities(2000)
    ids = [document_id(entity) for entity in entities]
    assert len(set(ids)) == 2000
    assert ids[:200] == [document.id for document in documents("eval")]
    assert many_entities(500) == entities[:500]
    assert not {e.name for e in entities} & {e.name for e in known_world(0)}


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_each_size_is_measured_among_as_many_documents(tmp_path, monkeypatch):
    monkeypatch.setattr(library_sizes, "QUESTIONS_PER_TASK", 2)
    monkeypatch.setattr(library_sizes, "SETTINGS", replace(library_sizes.SETTINGS, epochs=1))
    main([str(tmp_path / "library"), str(tmp_path / "out"), "--size", "4", "--size", "2"])
    for size in (2, 4):
        results = Results.read(tmp_path / "out" / f"results-{size}.jsonl")
        assert results.about["documents"] == size
        assert len(results.questions) == 10
        routed = [system for system in results.systems if system.routes_knowledge]
        assert {system.library_size for system in routed} == {size}
    lines = (tmp_path / "out" / "report.md").read_text().splitlines()
    rows = [line.split(" | ")[0] for line in lines[lines.index("## Library size") :]]
    assert {"| arrow", "| spectr", "| lag", "| prag+lag"} <= set(rows)
