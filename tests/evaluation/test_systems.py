from __future__ import annotations

from dataclasses import replace

import pytest

from lag_engine import EvaluationError, Pinned, Routed
from lag_engine.evaluation import System, grid, obstacle
from lag_engine.evaluation.planning import Planner
from lag_engine.routing import MODES


@pytest.fixture
def plan(engine, suite):
    """The plan of a question under a system, with documents by id."""

    def make(system, *ids, question=0):
        documents = [suite.by_id[name] for name in ids]
        asked = suite.questions[question]
        return Planner(engine, suite, seed=0).plan(system, asked, documents, {})

    return make


def test_what_a_mode_does_not_use_makes_no_other_system():
    assert System("base", retrieve_k=5, score="norm", retriever="dense") == System("base")
    assert System("rag", retrieve_k=5) == System("rag")
    assert System("rag", retriever="dense") != System("rag")
    assert System("prag", encoding="prag") == System("prag")
    assert System("rag+lag", encoding="shuffled") == System("rag+lag")


def test_a_grid_has_every_combination_once():
    systems = grid(["base", "lag", "rag"], retrieve_k=(1, 5), retriever=("bm25", "dense"))
    assert systems == [
        System("base"),
        System("lag", retrieve_k=1),
        System("lag", retrieve_k=5),
        System("rag"),
        System("rag", retriever="dense"),
    ]


@pytest.mark.parametrize("mode", MODES)
def test_a_system_is_what_it_tells(mode):
    for system in grid([mode], document=["retrieved", "right", "wrong", "none"]):
        assert System(**system.told()) == system
        assert system.name.startswith(mode)


def test_names_tell_what_is_not_as_usual():
    assert System("lag").name == "lag"
    assert System("lag", retrieve_k=5, score="norm").name == "lag, K 5, score norm"
    assert System("rag+lag", document="wrong").name == "rag+lag, document wrong"
    assert System("polyprag+lag").title == "Poly-PRAG+LAG"


def test_an_unknown_mode_is_refused():
    with pytest.raises(EvaluationError, match="'magic'"):
        System("magic")


def test_documents_are_pinned_by_their_adapters(plan):
    assert plan(System("prag"), "d1").knowledge == Pinned("doc-1")
    assert plan(System("prag", n_documents=2), "d1", "d2").knowledge == Pinned(["doc-1", "doc-2"])
    assert isinstance(plan(System("prag+lag"), "d1").task, Routed)


def test_the_oracle_pins_both_gold_adapters(plan):
    found = plan(System("oracle"), "d2", question=5)
    assert (found.task, found.knowledge) == (Pinned("slots"), Pinned("doc-2"))
    assert plan(System("oracle", document="none")).knowledge is None


def test_without_its_document_a_system_keeps_its_task_slot(plan):
    whole, without = plan(System("prag+lag"), "d1"), plan(System("prag+lag", document="none"))
    assert (without.task, without.knowledge) == (whole.task, None)
    assert plan(System("prag", document="none")).slots == ()
    assert plan(System("lag", document="none")).task == plan(System("lag")).task


def test_a_routed_control_takes_the_gold_adapter_out(plan):
    assert plan(System("lag")).knowledge.candidates is None
    assert plan(System("lag", document="wrong")).knowledge.candidates == ("doc-1", "doc-2")


def test_smaller_libraries_hold_the_gold_adapter_and_grow(plan):
    sizes = [set(plan(System("lag", library_size=n)).knowledge.candidates) for n in (1, 2, 3)]
    assert sizes[0] == {"doc-0"} < sizes[1] < sizes[2] == {"doc-0", "doc-1", "doc-2"}


def test_routers_get_their_options(plan):
    found = plan(System("lag", retrieve_k=1, score="relative"))
    assert (found.task.router.retrieve_k, found.task.router.score) == (1, "relative")


@pytest.mark.parametrize(
    ("system", "reason"),
    [
        (System("polyprag"), "3 of 3 documents have no polyprag adapter"),
        (System("dyprag"), "no translator"),
        (System("prag", encoding="shuffled"), "no shuffled adapter"),
        (System("prag+lag"), ""),
        (System("polyprag", document="none"), ""),
    ],
)
def test_what_cannot_run_says_why(engine, suite, system, reason):
    found = obstacle(system, suite, engine)
    assert reason in found if reason else not found


def test_gold_must_be_known_where_it_is_used(engine, suite):
    blind = replace(
        suite,
        questions=tuple(replace(q, evidence=(), task_adapter=None) for q in suite.questions),
    )
    told = {
        mode: obstacle(System(mode, document="right"), blind, engine)
        for mode in ("rag", "oracle", "lag")
    }
    assert "gold document" in told["rag"]
    assert "gold" in told["oracle"]
    assert told["lag"] == ""
    smaller = System("lag", library_size=2)
    assert "gold document" in obstacle(smaller, blind, engine)
    empty = replace(blind, documents=())
    assert "no documents" in obstacle(System("rag"), empty, engine)
