"""A trace tells what was recorded: shares that sum to one, plain records, a small summary."""

from __future__ import annotations

import json

import pytest
import torch

from lag_engine.routing import Decisions, Pinned, Plan, Recorder, RoutingTrace
from lag_engine.routing.trace import layer_of

NAMES = ("a", "b", "c")
LAYERS = ("model.layers.0.q_proj", "model.layers.1.q_proj")
NAN = float("nan")
TASK = Plan("custom", task=Pinned("a"))
BOTH = Plan.from_mode("prag+lag", score="norm", adapters=["b"])


def decisions(module, slot, rows, weights, scores=None):
    weights = torch.tensor(weights)
    scores = weights if scores is None else torch.tensor(scores)
    return Decisions(module, slot, NAMES, torch.tensor(rows), scores, weights)


@pytest.fixture
def trace():
    """Three tokens; the task slot mixes two adapters, the knowledge slot leaves one on the base."""
    return RoutingTrace(
        token_ids=(5, 6, 7),
        tokens=("x", "y", "z"),
        plan=BOTH,
        decisions=(
            decisions(LAYERS[0], "task", [[0, 1], [0, 1], [0, 2]], [[0.75, 0.25]] * 3),
            decisions(LAYERS[0], "knowledge", [[2], [-1], [2]], [[1.0], [0.0], [1.0]]),
            decisions(LAYERS[1], "knowledge", [[1], [1], [1]], [[1.0]] * 3, [[NAN]] * 3),
        ),
    )


def test_shares_are_parts_of_all_decisions(trace):
    assert trace.share(slot="knowledge") == pytest.approx({"c": 2 / 6, None: 1 / 6, "b": 3 / 6})
    assert trace.share(slot="task") == pytest.approx({"a": 0.75, "b": 0.5 / 3, "c": 0.25 / 3})
    assert sum(trace.share().values()) == pytest.approx(1)


@pytest.mark.parametrize("by", ["slot", "module", "layer", "token"])
def test_shares_sum_to_one_within_each_group(by, trace):
    shares = trace.share(by)
    assert all(sum(group.values()) == pytest.approx(1) for group in shares.values())
    keys = {"slot": {"task", "knowledge"}, "module": set(LAYERS), "layer": {0, 1}}
    assert set(shares) == keys.get(by, {0, 1, 2})


def test_a_token_on_the_base_is_visible_as_none(trace):
    assert trace.share("token", slot="knowledge")[1] == {None: 0.5, "b": 0.5}
    base = [record for record in trace.records() if record["adapter"] is None]
    assert [(r["token"], r["text"], r["layer"], r["weight"]) for r in base] == [(1, "y", 0, 0.0)]


def test_applied_and_entropy(trace):
    assert trace.applied(slot="knowledge") == pytest.approx(5 / 6)
    assert trace.applied(slot="task") == pytest.approx(1)
    one = RoutingTrace((5,), ("x",), TASK, (decisions("m", "task", [[0]], [[1.0]]),))
    assert one.entropy() == 0
    even = decisions("m", "task", [[0], [1], [2], [-1]], [[1.0], [1.0], [1.0], [0.0]])
    assert RoutingTrace((1,) * 4, ("",) * 4, TASK, (even,)).entropy() == pytest.approx(2)


def test_negative_weights_count_by_size():
    pinned = decisions("m", "task", [[0, 1]], [[1.0, -3.0]])
    trace = RoutingTrace((5,), ("x",), TASK, (pinned,))
    assert trace.share() == pytest.approx({"a": 0.25, "b": 0.75})


def test_an_adapter_of_weight_zero_counts_as_the_base():
    pinned = decisions("m", "task", [[0, 1], [0, 1]], [[0.0, 0.0], [0.0, 1.0]])
    trace = RoutingTrace((5, 6), ("x", "y"), TASK, (pinned,))
    assert trace.share("token") == {0: {None: 1.0}, 1: {"b": 1.0}}


def test_a_slot_where_nothing_could_choose_is_in_the_summary():
    summary = RoutingTrace((5,), ("x",), TASK, ()).summary()
    assert summary == {
        "tokens": 1,
        "slots": {
            "task": {
                "router": None,
                "modules": 0,
                "applied": 0,
                "entropy_bits": 0.0,
                "adapters": [],
            }
        },
    }


def test_summary_and_dict_are_json(trace):
    summary = json.loads(json.dumps(trace.summary(most=1), allow_nan=False))
    assert summary["slots"]["knowledge"]["adapters"] == [{"adapter": "b", "share": 0.5}]
    assert "score='norm'" in summary["slots"]["task"]["router"]
    told = json.loads(json.dumps(trace.to_dict(), allow_nan=False))
    assert told["decisions"][1]["adapters"] == [["c"], [None], ["c"]]
    assert told["decisions"][2]["scores"] == [[None]] * 3
    json.dumps(trace.records(), allow_nan=False)


@pytest.mark.parametrize(
    ("module", "layer"),
    [("model.layers.12.mlp.up_proj", 12), ("transformer.h.3.attn.c_attn", 3), ("lm_head", None)],
)
def test_the_layer_is_the_first_number_of_the_path(module, layer):
    assert layer_of(module) == layer


def record(recorder, rows, module="m"):
    rows = torch.tensor(rows)
    ones = torch.ones(rows.shape)
    recorder.record(module, "task", NAMES, rows, ones, ones)


def test_a_recorder_joins_forward_passes():
    recorder = Recorder()
    record(recorder, [[1], [2]])
    record(recorder, [[0]], "n")
    record(recorder, [[1]])
    assert [(d.module, d.rows.tolist()) for d in recorder.decisions()] == [
        ("m", [[1], [2], [1]]),
        ("n", [[0]]),
    ]


def test_a_trace_is_cut_to_the_tokens_that_were_fed():
    recorder = Recorder()
    record(recorder, [[0], [1]])
    trace = RoutingTrace.from_recorder(
        recorder, token_ids=[7, 8, 9], tokens=["x", "y", "z"], plan=TASK
    )
    assert (trace.token_ids, trace.tokens) == ((7, 8), ("x", "y"))
    assert trace.share("token") == {0: {"a": 1.0}, 1: {"b": 1.0}}
