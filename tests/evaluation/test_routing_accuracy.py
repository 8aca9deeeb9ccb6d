from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from lag_engine.evaluation.routing_accuracy import Gold, count_routing
from lag_engine.routing import Decisions

NAMES = ("a", "b", "c")


def answer(rows, weights, *, n_prompt, slot="task", module="model.layers.3.mlp.up_proj"):
    rows, weights = torch.tensor(rows), torch.tensor(weights)
    decisions = Decisions(module, slot, NAMES, rows, torch.zeros_like(weights), weights)
    trace = SimpleNamespace(decisions=(decisions,))
    return SimpleNamespace(trace=trace, prompt_token_ids=(0,) * n_prompt)


def test_decisions_for_the_gold_adapter_are_counted_by_layer_and_module():
    asked = answer([[0], [1], [1], [2]], [[1.0]] * 4, n_prompt=3)
    (count,) = count_routing([asked], [Gold(("b",), ())], slots=["task"])
    assert count[:3] == ("task", 3, "up_proj")
    assert (count.right, count.total) == (2, 4)
    assert (count.decisive_right, count.decisive_total) == (1, 2)


def test_a_mixture_counts_by_its_weight_and_the_base_as_nothing():
    asked = answer([[0, 1], [1, -1], [-1, -1]], [[3.0, 1.0], [1.0, 0.0], [0.0, 0.0]], n_prompt=1)
    (count,) = count_routing([asked], [Gold(("b",), ())], slots=["task"])
    assert count.right == pytest.approx(0.25 + 1 + 0)


def test_any_of_several_gold_adapters_is_right():
    asked = answer([[0], [2]], [[1.0]] * 2, n_prompt=1, slot="knowledge")
    (count,) = count_routing([asked], [Gold((), ("a", "c"))], slots=["knowledge"])
    assert count.right == 2


def test_slots_that_are_not_routed_or_have_no_gold_are_left_out():
    asked = answer([[0]], [[1.0]], n_prompt=1)
    assert count_routing([asked], [Gold((), ("a",))], slots=["task"]) == []
    assert count_routing([asked], [Gold(("a",), ())], slots=["knowledge"]) == []
