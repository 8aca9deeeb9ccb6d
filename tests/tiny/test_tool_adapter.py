"""The tool adapter is found by routing: a base that never calls a tool calls the right one."""

from __future__ import annotations

import pytest

from lag_engine import LAGEngine
from lag_engine.routing import Plan
from lag_engine.tiny.shipped import TOOL_ADAPTER, questions
from lag_engine.tiny.tool_evaluation import answer_cases, measure_tools, tool_cases


@pytest.fixture(scope="module")
def engine():
    with LAGEngine.from_pretrained("lag-tiny") as engine:
        yield engine


@pytest.fixture(scope="module")
def cases(engine):
    return tool_cases(engine.tokenizer, "dev", {"call": 16})


def shares(engine, cases, mode):
    measured = measure_tools(cases, answer_cases(engine, cases, Plan.from_mode(mode)))
    return {name: measured[name]["score"] for name in ("tool", "call")}


def test_routed_it_calls_the_right_tool_and_copies_arguments_where_the_base_calls_none(
    engine, cases
):
    routed = shares(engine, cases, "lag")
    assert routed["tool"] > 0.6
    assert routed["call"] > 0.2
    assert shares(engine, cases[:4], "base") == {"tool": 0, "call": 0}


def task_share(engine, messages, tools=None):
    """The tool adapter's share of the task slot's choices."""
    trace = engine.generate(messages, plan="lag", trace=True, tools=tools).trace
    return trace.share(slot="task").get(TOOL_ADAPTER, 0.0)


def test_it_is_chosen_where_tools_are_offered_and_left_alone_elsewhere(engine, cases):
    case = cases[0]
    asked = [{"role": "user", "content": questions("eval")[0].prompt}]
    assert task_share(engine, list(case.messages), case.schemas) > 0.6
    assert task_share(engine, asked) < 0.2
