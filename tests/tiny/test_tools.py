"""Generated tools and requests: sides, schemas, and nothing of the suite they are tested with."""

from __future__ import annotations

import json
import random
import re
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import pytest

from lag_engine.tiny.corpus import Corpus
from lag_engine.tiny.tokenizer import build_tokenizer
from lag_engine.tiny.tool_cases import SHARES, CaseMaker
from lag_engine.tiny.tools import random_tools, side_of

SIDES = ("train", "dev", "eval")
SUITE_WORDS = frozenset(
    {"weather", "francisco", "customer", "adder", "greeting", "pirate", "joke", "punchline"}
    | {"setup", "erick", "haiku", "fav_color", "magic", "'你好啊集团'", "'こんにちは株式会社'"}
)


@pytest.fixture(scope="module")
def corpus():
    return Corpus(build_tokenizer(), seed=0, stream="tools")


def maker(corpus, side, seed=0):
    return CaseMaker(side, random.Random(seed), corpus.known, corpus.fresh)


def cases(corpus, side, count, seed=0):
    made = maker(corpus, side, seed)
    return [made.case() for _ in range(count)]


@pytest.mark.parametrize("side", SIDES)
def test_every_offered_tool_is_of_its_side(corpus, side):
    names = {tool.name for case in cases(corpus, side, 400) for tool in case.tools}
    assert len(names) > 300
    assert all(side_of(name) == side for name in names)


def test_sides_share_no_name(corpus):
    names = [{t.name for c in cases(corpus, side, 300) for t in c.tools} for side in SIDES]
    assert not any(a & b for a, b in pairwise([*names, names[0]]))


def test_no_tool_or_request_is_one_of_the_standard_suites(corpus):
    spec = find_spec("langchain_tests")
    assert spec is not None
    assert spec.origin is not None
    suite = "\n".join(p.read_text() for p in Path(spec.origin).parent.rglob("*chat_models.py"))
    words = set(re.findall(r"\w+", suite))
    sentences = {s.lower() for s in re.findall(r'"([^"\n]{20,})"', suite)}
    for case in cases(corpus, "train", 1500):
        assert not {t.name for t in case.tools if "_" in t.name} & words
        said = case.messages[-1]["content"].lower()
        assert said not in sentences
        assert not SUITE_WORDS & set(said.split())


@pytest.mark.parametrize("kind", SHARES)
def test_a_case_is_a_call_of_an_offered_tool_or_a_text(corpus, kind):
    made = maker(corpus, "train")
    for _ in range(40):
        case = made.case(kind)
        assert bool(case.calls) != bool(case.text)
        for call in case.calls:
            (tool,) = [t for t in case.tools if t.name == call.name]
            schema = tool.schema()["function"]["parameters"]
            assert set(schema["required"]) <= set(call.arguments) <= set(schema["properties"])
            order = [name for name in schema["properties"] if name in call.arguments]
            assert list(call.arguments) == order


@pytest.mark.parametrize("kind", ["call", "search"])
def test_the_request_says_every_value(corpus, kind):
    made = maker(corpus, "train")
    for _ in range(200):
        case = made.case(kind)
        said = case.messages[-1]["content"]
        for call in case.calls:
            for value in call.arguments.values():
                shown = str(value).lower() if isinstance(value, bool) else str(value)
                assert shown in said


def test_a_call_is_written_as_the_template_writes_it(corpus):
    tokenizer = corpus.tokenizer
    for case in cases(corpus, "train", 60):
        calls = [{"type": "function", "function": call.as_dict()} for call in case.calls]
        answer = {"role": "assistant", "content": case.text, "tool_calls": calls}
        text = tokenizer.apply_chat_template([*case.messages, answer], tokenize=False)
        assert text.endswith(f"<|assistant|>{case.answer.strip()}<|end|>")
        assert [json.loads(c.text()[11:-12]) for c in case.calls] == [
            c.as_dict() for c in case.calls
        ]


def test_offered_tools_are_told_apart_by_name_and_thing():
    rng = random.Random(0)
    for _ in range(50):
        tools = random_tools("train", 4, rng)
        assert len({t.name for t in tools}) == len({t.thing for t in tools}) == 4


def test_cases_are_those_of_the_seed(corpus):
    kinds = ("call", "chat", "extraction", "unfit", "result")
    first, again = (maker(corpus, "dev", seed=3) for _ in range(2))
    assert [first.case(k) for k in kinds] == [again.case(k) for k in kinds]
