"""The page that shows the routing: coloured tokens, the picture, and what the engine refuses."""

from __future__ import annotations

import re

import pytest

from lag_engine.heat_map import adapter_colours
from lag_engine.serving import ModelNames
from lag_engine.serving.token_view import token_view

QUESTION = [{"role": "user", "content": [{"type": "text", "text": "Who is it?"}]}]


@pytest.fixture
def traced(served):
    """A traced answer under a plan."""

    def answer(plan):
        return served.generate("Who <b>?", plan=plan, trace=True, max_new_tokens=6)

    return answer


def spans(html):
    found = re.findall(r'<span style="background:([^;]+);[^>]*title="([^"]*)">(.*?)</span>', html)
    return [span for span in found if span[1]]


@pytest.mark.parametrize(("mode", "n_slots"), [("lag", 2), ("arrow", 2), ("rag+lag", 1)])
def test_each_written_token_but_the_last_stands_once_in_each_slot(traced, mode, n_slots):
    generation = traced(mode)
    n_tokens = len(generation.token_ids) - 1
    assert len(spans(token_view(generation))) == n_slots * n_tokens


def test_a_token_has_the_colour_of_the_adapter_most_modules_chose(served, traced):
    generation = traced(served.plan("prag", adapters=["doc-1"]))
    colour = adapter_colours(generation.trace.to_dict(), "knowledge")["doc-1"]
    shown = spans(token_view(generation))
    assert {(of, told) for of, told, _ in shown} == {(colour, "doc-1 100%")}


def test_text_is_escaped(served, traced):
    generation = traced("lag")
    trace = generation.trace
    object.__setattr__(trace, "tokens", tuple("<script>" for _ in trace.tokens))
    assert "<script>" not in token_view(generation)
    assert "&lt;script&gt;" in token_view(generation)


def test_an_answer_of_the_base_model_says_that_nothing_was_applied(traced):
    assert "No adapters" in token_view(traced("base"))


@pytest.mark.slow
class TestPage:
    """Importing Gradio takes seconds."""

    @pytest.fixture
    def inspector(self, served):
        from lag_engine.serving.inspector import Inspector

        return Inspector(served, ModelNames(served, "pico"))

    async def test_the_answer_grows_and_ends_with_its_routing(self, served, inspector):
        shown = [s async for s in inspector.answer(QUESTION, "lag-auto", 8, 0.0)]
        plain = [{"role": "user", "content": "Who is it?"}]
        whole = served.generate(plain, plan="lag", max_new_tokens=8)
        turns, html, picture = shown[-1]
        assert turns == [*QUESTION, {"role": "assistant", "content": whole.text}]
        assert "task adapters" in html
        assert len(picture.axes) == 2
        assert all(html == "" and picture is None for _, html, picture in shown[:-1])

    async def test_a_mistake_is_shown_and_the_conversation_stays(self, inspector):
        (shown,) = [s async for s in inspector.answer(QUESTION, "pico:doc-9", 8, 0.0)]
        turns, html, picture = shown
        assert (turns, picture) == (QUESTION, None)
        assert "AdapterNotFoundError" in html
        assert "&#x27;doc-9&#x27;" in html

    def test_the_page_offers_what_needs_nothing_more_said(self, inspector):
        assert inspector.choices[:2] == ["pico", "lag-auto"]
        assert "pico@rag+lag" in inspector.choices
        assert "pico@prag" not in inspector.choices
