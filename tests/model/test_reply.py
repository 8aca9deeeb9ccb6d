"""Replies: the parts of an answer are the same however its text was cut, and lose nothing."""

from __future__ import annotations

import random

import pytest

from lag_engine.model.guided import Guide
from lag_engine.model.reply import THINK_MARKERS, Delta, ReplyFormat, ReplySplitter
from lag_engine.model.tools import HERMES, LLAMA, MISTRAL

THINK = THINK_MARKERS[0]
CALL = '{"name": "f", "arguments": {"x": "}</tool_call>\\"", "y": {"z": [1, {}]}}}'
BARE = CALL.replace('"arguments"', '"parameters"')
ARGUMENTS = {"x": '}</tool_call>"', "y": {"z": [1, {}]}}


def split(reply, pieces):
    splitter = ReplySplitter(reply)
    deltas = [*map(splitter.feed, pieces), splitter.flush()]
    whole = Delta()
    for delta in deltas:
        whole = whole.then(delta)
    calls = tuple((call.name, call.arguments) for call in whole.tool_calls)
    return whole.text, whole.reasoning, calls, splitter.broken_call


def cuts(text, seed):
    generator = random.Random(seed)
    places = sorted(
        generator.sample(range(len(text) + 1), min(len(text), generator.randint(0, 12)))
    )
    return [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]


ONE = (("f", ARGUMENTS),)
CASES = {
    "text": (ReplyFormat(), " a <tool_call> b\n", (" a <tool_call> b\n", "", (), "")),
    "no call": (ReplyFormat(HERMES), " a <tool_ca> {b}\n", (" a <tool_ca> {b}\n", "", (), "")),
    "begun marker": (ReplyFormat(HERMES), "a \n<tool_", ("a \n<tool_", "", (), "")),
    "call": (ReplyFormat(HERMES), f"<tool_call>{CALL}</tool_call>", ("", "", ONE, "")),
    "text and calls": (
        ReplyFormat(HERMES),
        f"Hm. \n\n<tool_call>\n{CALL}\n</tool_call>\n<tool_call>{CALL}</tool_call>",
        ("Hm.", "", ONE * 2, ""),
    ),
    "broken": (
        ReplyFormat(HERMES),
        f"a <tool_call>{CALL[:20]}",
        ("a", "", (), f"<tool_call>{CALL[:20]}"),
    ),
    "no more than the opener": (ReplyFormat(HERMES), "<tool_call>", ("", "", (), "<tool_call>")),
    "broken second": (
        ReplyFormat(HERMES),
        f"<tool_call>{CALL}</tool_call>\n<tool_call>{CALL[:-1]}",
        ("", "", ONE, f"<tool_call>{CALL[:-1]}"),
    ),
    "whole but for the closer": (ReplyFormat(HERMES), f"<tool_call>{CALL}</to", ("", "", ONE, "")),
    "mistral": (ReplyFormat(MISTRAL), f"a [TOOL_CALLS] [{CALL}, {CALL}]", ("a", "", ONE * 2, "")),
    "broken mistral": (
        ReplyFormat(MISTRAL),
        f"[TOOL_CALLS][{CALL}, {CALL[:9]}",
        ("", "", ONE, CALL[:9]),
    ),
    "llama": (ReplyFormat(LLAMA), f"\n{BARE}; {BARE}", ("", "", ONE * 2, "")),
    "llama with its tag": (ReplyFormat(LLAMA), f"<|python_tag|>{BARE}", ("", "", ONE, "")),
    "llama's text": (ReplyFormat(LLAMA), ' {"a": 1}', (' {"a": 1}', "", (), "")),
    "llama's later object": (ReplyFormat(LLAMA), f"a {BARE}", (f"a {BARE}", "", (), "")),
    "llama's broken call": (ReplyFormat(LLAMA), BARE[:25], ("", "", (), BARE[:25])),
    "reasoning": (
        ReplyFormat(think=THINK),
        "\n<think>\nwhy \n not\n</think>\n\n 京都 ",
        ("京都 ", "why \n not", (), ""),
    ),
    "opened reasoning": (
        ReplyFormat(think=THINK, is_thinking=True),
        "why</think>yes",
        ("yes", "why", (), ""),
    ),
    "endless reasoning": (
        ReplyFormat(think=THINK, is_thinking=True),
        "why </thin",
        ("", "why </thin", (), ""),
    ),
    "no reasoning": (
        ReplyFormat(think=THINK),
        " <thin> </think>",
        (" <thin> </think>", "", (), ""),
    ),
    "reasoning and a call": (
        ReplyFormat(HERMES, THINK),
        f"<think><tool_call></think>\n<tool_call>{CALL}</tool_call>",
        ("", "<tool_call>", ONE, ""),
    ),
    "reasoning and a bare call": (
        ReplyFormat(LLAMA, THINK),
        f"<think>a</think>\n{BARE}",
        ("", "a", ONE, ""),
    ),
    "the tokenizer's space": (ReplyFormat(skips_space=True), "  yes", (" yes", "", (), "")),
    "nothing": (ReplyFormat(HERMES, THINK), "", ("", "", (), "")),
}


@pytest.mark.parametrize("name", CASES)
def test_an_answer_has_these_parts(name):
    reply, text, parts = CASES[name]
    assert split(reply, [text]) == parts


@pytest.mark.parametrize("name", CASES)
def test_the_parts_do_not_depend_on_the_cuts(name):
    reply, text, parts = CASES[name]
    assert split(reply, list(text)) == parts
    for seed in range(40):
        assert split(reply, cuts(text, seed)) == parts


def test_text_that_no_marker_can_claim_comes_at_once():
    splitter = ReplySplitter(ReplyFormat(HERMES))
    given = [splitter.feed(c).text for c in "a b <to b"]
    assert given == ["a", "", " b", "", "", "", "", " <to", " b"]


def test_a_call_comes_whole_with_its_last_brace():
    splitter = ReplySplitter(ReplyFormat(HERMES))
    text = f"<tool_call>{CALL}"
    assert not any(splitter.feed(c) for c in text[:-1])
    assert len(splitter.feed(text[-1]).tool_calls) == 1


@pytest.mark.parametrize("name", ["hermes, reasoning", "hermes, reasoning opened"])
@pytest.mark.parametrize(
    "guide", [Guide.regex(r"(.|\n){1,9}"), Guide.choices(["yes", "no"]), Guide.json_object()]
)
def test_a_guide_is_for_the_answer_and_not_for_the_reasoning(writers, name, guide):
    lead = ("<think>" if name == "hermes, reasoning" else "") + "free: {}\n</think>\n"
    for seed in range(3):
        answer, _ = writers[name].write(lead, guide=guide, seed=seed, max_new_tokens=300)
        assert answer.reasoning == "free: {}"
        if guide.kind == "choices":
            assert answer.text in ("yes", "no")
        if guide.kind == "json_schema":
            assert answer.text.startswith("{")
        if guide.kind == "regex":
            assert len(answer.text) < 10


def test_a_prompt_that_closes_the_reasoning_has_none_in_its_answer(make_writer, make_tokenizers):
    template = "{% for m in messages %}{{ m['content'] }}{% endfor %}<think>\n</think>\n\n"
    writer = make_writer(make_tokenizers(template))
    assert writer.row().request.reply is None
    assert writer.write("<think>a</think>b</s>")[0].text == "<think>a</think>b"


def test_raw_text_and_ids_have_no_reasoning(writers):
    requests = writers["hermes, reasoning"].requests
    for prompt in ("<think>", [3, 4]):
        assert requests.one(prompt, "base", {}).reply is None


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "name", ["hermes, markers spelled", "hermes, reasoning", "mistral", "llama"]
)
def test_what_is_given_out_joins_to_the_whole(writers, tools, name, seed):
    options = {"seed": seed, "tools": tools, "temperature": 0.8, "max_new_tokens": 150}
    lead = "Well <tool_call>" if seed % 2 and "hermes" in name else ""
    row_answer, deltas = writers[name].write(lead, **options)
    assert "".join(d.text for d in deltas) == row_answer.text
    assert "".join(d.reasoning for d in deltas) == row_answer.reasoning
    assert sum((d.tool_calls for d in deltas), ()) == row_answer.tool_calls
