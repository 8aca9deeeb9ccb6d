"""Plans are values: the mode table, what may stand in a slot, and keys."""

from __future__ import annotations

import subprocess
import sys

import pytest

from lag_engine.errors import PlanError
from lag_engine.routing import (
    LAG,
    MODES,
    Arrow,
    Generated,
    Latent,
    Pinned,
    Plan,
    Routed,
    SpectR,
)

PINNED = {
    "prag": ["d1", "d2"],
    "prag+lag": ["d1"],
    "rag+prag+lag": {"d1": 0.5},
    "oracle": {"task": "t", "knowledge": ["d1"]},
    "dyprag": ["g1"],
    "polyprag": ["m1", "m2"],
    "dyprag+lag": {"g1": 0.5},
    "polyprag+lag": {"knowledge": {"m1": 2}},
}

TABLE = {
    "base": (False, None, None),
    "arrow": (False, Arrow, Arrow),
    "spectr": (False, SpectR, SpectR),
    "lag": (False, LAG, LAG),
    "rag": (True, None, None),
    "prag": (False, None, Pinned),
    "rag+lag": (True, LAG, None),
    "prag+lag": (False, LAG, Pinned),
    "rag+prag+lag": (True, LAG, Pinned),
    "oracle": (False, Pinned, Pinned),
    "dyprag": (False, None, Generated),
    "polyprag": (False, None, Latent),
    "dyprag+lag": (False, LAG, Generated),
    "polyprag+lag": (False, LAG, Latent),
}


def held(selection):
    return type(selection.router) if isinstance(selection, Routed) else _type(selection)


def _type(selection):
    return None if selection is None else type(selection)


@pytest.mark.parametrize("mode", MODES)
def test_each_mode_is_its_row_of_the_design_table(mode):
    plan = Plan.from_mode(mode, adapters=PINNED.get(mode))
    assert (plan.reads_documents, held(plan.task), held(plan.knowledge)) == TABLE[mode]


def test_the_table_is_complete():
    assert set(TABLE) == set(MODES)


@pytest.mark.parametrize("mode", ["prag", "polyprag", "dyprag"])
def test_names_and_weights_reach_the_modes_own_selection(mode):
    selection = Plan.from_mode(mode, adapters={"b": 0.5, "a": 1}).knowledge
    assert selection.items == (("a", 1.0), ("b", 0.5))
    assert selection.names == ("a", "b")


def test_an_unknown_mode_lists_the_modes():
    with pytest.raises(PlanError, match=r"rag\+prag\+lag"):
        Plan.from_mode("lag+rag")


def test_options_reach_the_router():
    plan = Plan.from_mode(
        "lag", retrieve_k="adaptive", score="norm", floor=0.1, candidates=["b", "a"]
    )
    assert plan.task == plan.knowledge == Routed(LAG("adaptive", "norm", 0.1), ("a", "b"))
    assert Plan.from_mode("arrow", top_k=4, temperature=0.5).task == Routed(Arrow(4, 0.5))
    permitted = {mode: Plan.from_mode(mode, approximate=True) for mode in ("lag", "arrow")}
    assert permitted["lag"].task == Routed(LAG(approximate=True))
    assert permitted["arrow"].task == Routed(Arrow(approximate=True))
    assert all("approximate=True" in repr(plan) for plan in permitted.values())
    assert Plan.from_mode("spectr", top_k=4, score="norm").task == Routed(SpectR(4, "norm"))


def test_candidates_may_differ_by_slot():
    plan = Plan.from_mode("lag", candidates={"knowledge": ["d1"]})
    assert (plan.task.candidates, plan.knowledge.candidates) == (None, ("d1",))


def test_rag_lag_routes_knowledge_on_request_only():
    assert Plan.from_mode("rag+lag").knowledge is None
    assert Plan.from_mode("rag+lag", knowledge_routed=True).knowledge == Routed(LAG())
    with pytest.raises(PlanError, match="knowledge_routed"):
        Plan.from_mode("prag+lag", adapters=["d1"], knowledge_routed=True)
    with pytest.raises(PlanError, match="Found knowledge_routed='no'"):
        Plan.from_mode("rag+lag", knowledge_routed="no")


@pytest.mark.parametrize("mode", PINNED)
def test_a_pinning_mode_needs_its_adapters(mode):
    with pytest.raises(PlanError, match="pinned adapters"):
        Plan.from_mode(mode)


@pytest.mark.parametrize("mode", ["base", "lag", "rag"])
def test_a_mode_without_pinned_slots_takes_no_adapters(mode):
    with pytest.raises(PlanError, match="Leave adapters out"):
        Plan.from_mode(mode, adapters=["d1"])


def test_oracle_needs_to_know_which_adapter_is_for_which_slot():
    with pytest.raises(PlanError, match="which slot"):
        Plan.from_mode("oracle", adapters=["t", "d1"])


def test_flat_and_nested_adapters_mean_the_same_where_one_slot_is_pinned():
    flat = Plan.from_mode("prag", adapters={"d1": 0.5, "d2": 1})
    assert flat == Plan.from_mode("prag", adapters={"knowledge": {"d2": 1, "d1": 0.5}})


def test_adapters_named_like_slots_are_still_adapters_when_they_have_weights():
    plan = Plan.from_mode("prag", adapters={"task": 1.0})
    assert plan.knowledge == Pinned("task")


@pytest.mark.parametrize(
    "adapters", [[], {}, ["d1", "d1"], {"d1": float("nan")}, {"d1": float("inf")}]
)
def test_pinned_refuses_nothing_twice_and_weights_that_are_not_finite(adapters):
    with pytest.raises(PlanError):
        Pinned(adapters)


def test_a_string_is_one_name():
    assert Pinned("d1").names == ("d1",)
    assert Routed(LAG(), "d1").candidates == ("d1",)


@pytest.mark.parametrize(
    ("mode", "slots"),
    [
        ("base", {"task": Pinned("t")}),
        ("lag", {"task": Routed(LAG())}),
        ("prag", {"knowledge": Routed(LAG())}),
        ("polyprag", {"knowledge": Pinned("d")}),
    ],
)
def test_a_plan_that_contradicts_its_mode_is_refused(mode, slots):
    with pytest.raises(PlanError, match="slot"):
        Plan(mode, **slots)


def test_a_custom_plan_holds_anything_and_says_whether_it_reads():
    plan = Plan("custom", Pinned("t"), Latent("d"))
    assert plan.slots == ("task", "knowledge")
    assert not plan.reads_documents
    assert Plan("rag+custom", knowledge=Generated("d")).reads_documents


def test_equal_plans_have_equal_keys_and_hashes():
    one = Plan.from_mode("prag", adapters={"a": 1, "b": 2.0})
    two = Plan.from_mode("prag", adapters={"b": 2, "a": 1.0})
    assert (one, hash(one), one.key) == (two, hash(two), two.key)


def test_the_key_names_the_whole_plan():
    plans = [
        Plan.from_mode("lag"),
        Plan.from_mode("lag", retrieve_k=5),
        Plan.from_mode("lag", score="norm"),
        Plan.from_mode("lag", floor=0.0),
        Plan.from_mode("lag", approximate=True),
        Plan.from_mode("lag", candidates=["a"]),
        Plan.from_mode("rag+lag"),
        Plan.from_mode("prag", adapters=["a"]),
        Plan.from_mode("prag", adapters={"a": 0.5}),
        Plan.from_mode("prag", adapters=["b"]),
        Plan.from_mode("polyprag", adapters=["a"]),
        Plan.from_mode("dyprag", adapters=["a"]),
    ]
    assert len({plan.key for plan in plans}) == len(plans)


def test_the_key_is_equal_in_another_process():
    code = "from lag_engine.routing import Plan; print(Plan.from_mode('lag').key)"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert other.stdout.strip() == Plan.from_mode("lag").key, other.stderr


def test_a_plan_cannot_be_changed():
    with pytest.raises(AttributeError):
        Plan.from_mode("lag").mode = "base"
