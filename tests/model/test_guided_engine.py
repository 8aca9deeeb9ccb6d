"""Guides on a model that knows nothing: routed, sampled, batched or streamed, answers match."""

from __future__ import annotations

import json
import re

import pytest

from lag_engine.errors import GenerationError
from lag_engine.model.engine import LAGEngine
from lag_engine.model.guided import Guide

jsonschema = pytest.importorskip("jsonschema")

SHORT = {"type": "string", "maxLength": 5}
SCHEMAS = {
    "flat": {
        "type": "object",
        "properties": {"name": SHORT, "age": {"type": "integer", "minimum": 0, "maximum": 120}},
        "required": ["name", "age"],
    },
    "optional and nullable": {
        "type": "object",
        "properties": {
            "a": {"anyOf": [SHORT, {"type": "null"}], "default": None},
            "b": {"type": "boolean"},
            "c": {"enum": ["é", "京都", 1, None]},
        },
        "required": ["c"],
    },
    "union": {
        "anyOf": [
            {"type": "object", "properties": {"kind": {"const": "x"}}, "required": ["kind"]},
            {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 3},
        ]
    },
    "references": {
        "$defs": {"Point": {"type": "array", "items": {"enum": [0, 1]}, "maxItems": 2}},
        "type": "object",
        "properties": {"from": {"$ref": "#/$defs/Point"}, "to": {"$ref": "#/$defs/Point"}},
        "required": ["from", "to"],
        "additionalProperties": False,
    },
    "map": {
        "type": "object",
        "patternProperties": {"^[a-c]{1,2}$": {"enum": [True]}},
        "additionalProperties": False,
        "maxProperties": 2,
    },
    "format": {"type": "string", "format": "date"},
}
GUIDES = {
    "choices": (Guide.choices(["yes", "yesterday", "京都 🏯"]), r"yes|yesterday|京都 🏯"),
    "regex": (Guide.regex(r"[A-Z][a-z]{2,4}, \d\d?"), r"[A-Z][a-z]{2,4}, \d\d?"),
    "grammar": (Guide.grammar('start: "a" ("," "b"){1,3} END\nEND: /[.!]/'), r"a(,b){1,3}[.!]"),
}


@pytest.mark.parametrize(
    ("plan", "options"),
    [
        ("base", {"temperature": 1.3, "seed": 1}),
        ("lag", {"repetition_penalty": 1.5}),
        ("lag", {"temperature": 0.7, "top_p": 0.9, "seed": 2}),
    ],
)
@pytest.mark.parametrize("name", SCHEMAS)
def test_json_matches_its_schema_whatever_the_model_prefers(engine, name, plan, options):
    guide = Guide.json_schema(SCHEMAS[name])
    answer = engine.generate("Hm", guide=guide, max_new_tokens=150, plan=plan, **options)
    assert answer.finish_reason == "stop"
    jsonschema.validate(json.loads(answer.text), SCHEMAS[name])


@pytest.mark.parametrize("name", GUIDES)
def test_text_matches_its_guide(engine, name):
    guide, pattern = GUIDES[name]
    for seed in range(3):
        answer = engine.generate("Hm?", guide=guide, temperature=1.0, seed=seed)
        assert re.fullmatch(pattern, answer.text)
        assert answer.finish_reason == "stop"


def test_length_cuts_a_guided_answer_as_any_other(engine):
    answer = engine.generate("a", guide=Guide.choices(["abcdefgh"]), max_new_tokens=3)
    assert (answer.text, answer.finish_reason) == ("abc", "length")


def test_a_guided_answer_ends_with_its_last_token(engine):
    answer = engine.generate("a", guide=Guide.choices(["abc"]))
    assert answer.usage.completion_tokens == 3


def test_rows_of_a_batch_have_guides_of_their_own_or_none(engine):
    guides = [
        Guide.choices(["yes", "no"]),
        None,
        Guide.json_schema(SCHEMAS["flat"]),
        Guide.regex(r"\d{3}"),
        None,
    ]
    prompts = [f"Question {i}?" for i in range(5)]
    options = {"temperature": 0.8, "max_new_tokens": 60}
    plans = ["lag", "base", "arrow", "spectr", "lag"]
    seeds = list(range(5))
    together = engine.generate_batch(prompts, plans=plans, guide=guides, seed=seeds, **options)
    for i, answer in enumerate(together):
        alone = engine.generate(
            prompts[i], plan=plans[i], guide=guides[i], seed=seeds[i], **options
        )
        assert (alone.text, alone.token_ids) == (answer.text, answer.token_ids)
    assert together[0].text in ("yes", "no")
    jsonschema.validate(json.loads(together[2].text), SCHEMAS["flat"])
    assert re.fullmatch(r"\d{3}", together[3].text)


@pytest.mark.parametrize("guide", [Guide.json_schema(SCHEMAS["optional and nullable"]), None])
def test_the_pieces_of_a_guided_stream_join_to_the_whole(engine, guide):
    options = {"guide": guide, "temperature": 1.0, "seed": 7, "max_new_tokens": 60}
    whole = engine.generate("Who?", **options)
    pieces = list(engine.stream("Who?", **options))
    assert "".join(piece.text for piece in pieces) == whole.text
    assert sum((piece.token_ids for piece in pieces), ()) == whole.token_ids


def test_a_malformed_guide_is_refused_before_anything_is_computed(engine):
    steps = []
    handle = engine.model.register_forward_hook(lambda *_: steps.append(1))
    with pytest.raises(GenerationError, match="json schema that can guide"):
        engine.stream("a", guide=Guide.json_schema({"type": "wrong"}))
    with pytest.raises(GenerationError, match="regex that can guide"):
        engine.generate_batch(["a", "b"], guide=[None, Guide.regex("(")])
    handle.remove()
    assert not steps


@pytest.fixture
def tool_engine(text_model, tool_tokenizers, text_library):
    with LAGEngine(text_model, tool_tokenizers["hermes, markers spelled"], text_library) as engine:
        yield engine


ASK = [{"role": "user", "content": "?"}]
TINY_TOOL = {"type": "function", "function": {"name": "f", "parameters": {"enum": [{"a": 1}]}}}


def test_an_engine_knows_whether_its_template_takes_tools(
    make_text_model, byte_tokenizer, tool_engine
):
    assert tool_engine.supports_tools
    with LAGEngine(make_text_model(), byte_tokenizer) as engine:
        assert not engine.supports_tools
        with pytest.raises(GenerationError, match="shows tools"):
            engine.generate(ASK, tools=[TINY_TOOL], plan="base")


def test_a_call_comes_whole_in_a_stream_and_is_that_of_generate(tool_engine):
    options = {"tools": [TINY_TOOL], "tool_choice": "any", "max_new_tokens": 120}
    whole = tool_engine.generate(ASK, parallel_tool_calls=False, **options)
    pieces = list(tool_engine.stream(ASK, parallel_tool_calls=False, **options))
    calls = [call for piece in pieces for call in piece.tool_calls]
    assert [(c.name, c.arguments) for c in calls] == [("f", {"a": 1})]
    assert [(c.name, c.arguments) for c in whole.tool_calls] == [("f", {"a": 1})]
    assert sum((piece.token_ids for piece in pieces), ()) == whole.token_ids
    assert pieces[-1].generation.tool_calls == tuple(calls)
    assert whole.finish_reason == "tool_calls"
    assert whole.text == whole.broken_tool_call == ""


def test_a_batch_mixes_tools_guides_and_text(tool_engine):
    answers = tool_engine.generate_batch(
        [ASK, ASK, "raw"],
        tools=[[TINY_TOOL], None, None],
        tool_choice=["f", "auto", "auto"],
        guide=[None, Guide.choices(["yes"]), None],
        max_new_tokens=70,
        plans=["lag", "base", "lag"],
    )
    assert [c.arguments for c in answers[0].tool_calls] == [{"a": 1}]
    assert answers[1].text == "yes"
    assert answers[2].tool_calls == ()
    shared = tool_engine.generate_batch(
        [ASK, ASK], tools=[TINY_TOOL], tool_choice="any", parallel_tool_calls=False
    )
    assert [len(answer.tool_calls) for answer in shared] == [1, 1]
