"""Guides: what they let through is what they say, on every kind of tokenizer."""

from __future__ import annotations

import json
import re

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from lag_engine import tiny
from lag_engine.errors import GenerationError
from lag_engine.model.guided import MAX_COMPILED, Guide, GuideCompiler
from lag_engine.model.schemas import prepared

jsonschema = pytest.importorskip("jsonschema")


def sentencepiece_like() -> PreTrainedTokenizerFast:
    """As Llama's first tokenizers are: words begin with ▁, one is put first, bytes as <0xNN>."""
    words = ["▁", "▁yes", "yes", "▁no", "▁{", '"', "a", "b", "c", ":", ",", "}", "{", "1", "2"]
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), *words]
    core = Tokenizer(
        models.BPE(
            vocab={piece: i for i, piece in enumerate(pieces)},
            merges=[],
            unk_token="<unk>",
            byte_fallback=True,
            ignore_merges=True,
        )
    )
    core.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    core.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    core.add_special_tokens(["<unk>", "<s>", "</s>"])
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>", unk_token="<unk>")


@pytest.fixture(scope="module")
def tokenizers(byte_tokenizer):
    return {
        "bytes": byte_tokenizer,
        "lag-tiny": AutoTokenizer.from_pretrained(tiny.model_path()),
        "sentencepiece": sentencepiece_like(),
    }


def compiler(tokenizer, *, spare=0, end_ids=None):
    return GuideCompiler(
        tokenizer,
        vocabulary_size=len(tokenizer) + spare,
        end_ids=[tokenizer.eos_token_id] if end_ids is None else end_ids,
    )


def allowed(matcher, size):
    return set(matcher.mask(size).nonzero().flatten().tolist())


def decoded(tokenizer, ids):
    """The text of ids in the middle of an answer."""
    lead = tokenizer("a", add_special_tokens=False)["input_ids"]
    return tokenizer.decode([*lead, *ids])[len(tokenizer.decode(lead)) :]


@pytest.mark.parametrize("name", ["bytes", "lag-tiny", "sentencepiece"])
def test_a_token_is_let_through_exactly_when_its_text_matches(tokenizers, name):
    tokenizer = tokenizers[name]
    pattern = r"[ a-zA-Z\[\]_]{1,12}"
    matcher = compiler(tokenizer).compile(Guide.regex(pattern)).matcher()
    special = set(tokenizer.all_special_ids)
    fits = {
        i
        for i in range(len(tokenizer))
        if i not in special and re.fullmatch(pattern, decoded(tokenizer, [i]))
    }
    assert allowed(matcher, len(tokenizer)) == fits


@pytest.mark.parametrize("name", ["bytes", "lag-tiny", "sentencepiece"])
def test_characters_of_several_bytes_are_written_byte_by_byte(tokenizers, name):
    tokenizer = tokenizers[name]
    text = "京都 é 🏯"
    matcher = compiler(tokenizer).compile(Guide.choices([text])).matcher()
    written = []
    while not matcher.is_finished:
        written.append(min(allowed(matcher, len(tokenizer))))
        matcher.accept(written[-1])
    assert decoded(tokenizer, written) == text


def test_special_tokens_never_match_as_text(tokenizers):
    tokenizer = tokenizers["lag-tiny"]
    matcher = compiler(tokenizer).compile(Guide.regex(r"(.|\n)+")).matcher()
    assert not allowed(matcher, len(tokenizer)) & set(tokenizer.all_special_ids)


@pytest.mark.parametrize("name", ["bytes", "lag-tiny", "sentencepiece"])
def test_an_answer_may_spell_a_special_token(tokenizers, name):
    tokenizer = tokenizers[name]
    matcher = compiler(tokenizer).compile(Guide.choices([f"a{tokenizer.eos_token}b"])).matcher()
    written = []
    while not matcher.is_finished:
        written.append(min(allowed(matcher, len(tokenizer))))
        matcher.accept(written[-1])
    assert tokenizer.eos_token_id not in written
    assert decoded(tokenizer, written) == f"a{tokenizer.eos_token}b"


def test_every_end_token_may_come_exactly_where_the_answer_may_end(tokenizers):
    tokenizer = tokenizers["bytes"]
    ends = {2, 6}
    matcher = compiler(tokenizer, end_ids=ends).compile(Guide.regex("ab+")).matcher()
    a, b = tokenizer("ab", add_special_tokens=False)["input_ids"]
    assert allowed(matcher, len(tokenizer)) == {a}
    matcher.accept(a)
    assert allowed(matcher, len(tokenizer)) == {b}
    matcher.accept(b)
    assert allowed(matcher, len(tokenizer)) == {b, *ends}
    assert not matcher.is_finished


def test_a_finished_guide_lets_only_the_end_follow(tokenizers):
    tokenizer = tokenizers["bytes"]
    matcher = compiler(tokenizer).compile(Guide.choices(["a"])).matcher()
    matcher.accept(tokenizer("a", add_special_tokens=False)["input_ids"][0])
    assert matcher.is_finished
    assert allowed(matcher, len(tokenizer)) == {2}


def test_scores_that_no_token_has_are_never_let_through(tokenizers):
    tokenizer = tokenizers["bytes"]
    matcher = compiler(tokenizer, spare=9).compile(Guide.regex("(.|\n)*")).matcher()
    mask = matcher.mask(len(tokenizer) + 20)
    assert mask.shape == (len(tokenizer) + 20,)
    assert not mask[len(tokenizer) :].any()


def test_one_choice_may_begin_another(tokenizers):
    tokenizer = tokenizers["bytes"]
    matcher = compiler(tokenizer).compile(Guide.choices(["ye", "yes"])).matcher()
    for token_id in tokenizer("ye", add_special_tokens=False)["input_ids"]:
        matcher.accept(token_id)
    s = tokenizer("s", add_special_tokens=False)["input_ids"][0]
    assert allowed(matcher, len(tokenizer)) == {2, s}


def test_a_token_that_does_not_match_is_an_error(tokenizers):
    matcher = compiler(tokenizers["bytes"]).compile(Guide.choices(["a"])).matcher()
    with pytest.raises(GenerationError, match="can follow its guide"):
        matcher.accept(tokenizers["bytes"]("b", add_special_tokens=False)["input_ids"][0])


def test_rows_of_one_guide_do_not_touch_each_other(tokenizers):
    tokenizer = tokenizers["bytes"]
    compiled = compiler(tokenizer).compile(Guide.choices(["ab"]))
    first, second = compiled.matcher(), compiled.matcher()
    before = second.mask(len(tokenizer))
    first.accept(tokenizer("a", add_special_tokens=False)["input_ids"][0])
    assert torch.equal(second.mask(len(tokenizer)), before)
    assert not torch.equal(first.mask(len(tokenizer)), before)


def test_a_guide_is_compiled_once_and_the_least_used_are_forgotten(tokenizers):
    compiling = compiler(tokenizers["bytes"])
    kept = compiling.compile(Guide.choices(["kept"]))
    others = [compiling.compile(Guide.choices([str(i)])) for i in range(MAX_COMPILED - 1)]
    assert compiling.compile(Guide.choices(["kept"])) is kept
    compiling.compile(Guide.choices(["one more"]))
    assert compiling.compile(Guide.choices(["kept"])) is kept
    assert compiling.compile(Guide.choices(["0"])) is not others[0]


def test_guides_are_values():
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    assert Guide.json_schema(schema) == Guide.json_schema(dict(schema))
    assert len({Guide.json_object(), Guide.json_object(), Guide.regex("a"), Guide.regex("b")}) == 3
    assert Guide.choices(["a", "b"]) != Guide.choices(["b", "a"])


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Guide.json_schema({"type": "strin"}), "Invalid type"),
        (lambda: Guide.json_schema({"$ref": "#/nowhere"}), "nowhere"),
        (lambda: Guide.json_schema({"enum": []}), "empty"),
        (lambda: Guide.json_schema({"not": {"type": "string"}}), "not"),
        (lambda: Guide.json_schema({"type": "array", "uniqueItems": True}), "uniqueItems"),
        (lambda: Guide.regex("[a"), "unclosed"),
        (lambda: Guide.regex("(?=a)b"), "look-around"),
        (lambda: Guide.grammar("start: missing"), "missing"),
        (lambda: Guide.json_schema([1]), "mapping"),
        (lambda: Guide.json_schema({"const": object()}), "JSON"),
        (lambda: Guide.choices([]), "none of them empty"),
        (lambda: Guide.choices(["a", ""]), "none of them empty"),
        (lambda: Guide.choices("ab"), "list of strings"),
        (lambda: Guide.regex(3), "string"),
        (lambda: Guide.grammar(None), "string"),
    ],
)
def test_what_cannot_guide_is_refused_with_the_reason(tokenizers, make, reason):
    with pytest.raises(GenerationError, match=reason):
        compiler(tokenizers["bytes"]).compile(make())


def test_a_slow_tokenizer_is_refused(tokenizers):
    class Slow:
        is_fast = False

    with pytest.raises(GenerationError, match="fast tokenizer"):
        GuideCompiler(Slow(), vocabulary_size=9, end_ids=[]).compile(Guide.choices(["a"]))


def accepts(tokenizer, guide, text):
    """Whether the guide lets this whole text through."""
    matcher = compiler(tokenizer).compile(guide).matcher()
    for token_id in tokenizer(text, add_special_tokens=False)["input_ids"]:
        if token_id not in allowed(matcher, len(tokenizer)):
            return False
        matcher.accept(token_id)
    return tokenizer.eos_token_id in allowed(matcher, len(tokenizer))


NODE = {
    "$defs": {
        "Node": {
            "type": "object",
            "properties": {
                "value": {"type": "integer"},
                "next": {"anyOf": [{"$ref": "#/$defs/Node"}, {"type": "null"}]},
            },
            "required": ["value", "next"],
        }
    },
    "$ref": "#/$defs/Node",
}
OPTIONAL = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"type": "string"}, "c": {"type": "boolean"}},
    "required": ["b"],
}


@pytest.mark.parametrize(
    ("schema", "value", "is_valid"),
    [
        (NODE, {"value": 1, "next": {"value": -2, "next": None}}, True),
        (NODE, {"value": 1, "next": {"value": "x", "next": None}}, False),
        (OPTIONAL, {"b": "x"}, True),
        (OPTIONAL, {"a": 1, "b": "x", "c": True}, True),
        (OPTIONAL, {"a": 1}, False),
        (OPTIONAL, {"b": "x", "more": 1}, False),
        ({**OPTIONAL, "additionalProperties": True}, {"b": "x", "more": 1}, True),
        ({"type": "object", "additionalProperties": {"type": "integer"}}, {"x": 1, "y": 2}, True),
        ({"type": "object", "additionalProperties": {"type": "integer"}}, {"x": "1"}, False),
        ({"enum": ["a", 1, None, {"x": [1.5]}]}, {"x": [1.5]}, True),
        ({"enum": ["a", 1]}, "b", False),
        ({"type": "string", "nullable": True}, None, True),
        ({"type": ["string", "null"]}, None, True),
        ({"type": "string", "nullable": False}, None, False),
        ({"type": "integer", "minimum": 3, "maximum": 12}, 12, True),
        ({"type": "integer", "minimum": 3, "maximum": 12}, 13, False),
        ({"type": "integer"}, -(2**53 - 1), True),
        ({"type": "number"}, -3.25, True),
        ({"type": "number"}, 3.3333333333333335, False),  # nor digits after the point
        ({"type": "number", "minimum": 0, "maximum": 10}, 3.3333333333333335, False),
        ({"type": "number", "exclusiveMinimum": 0, "maximum": 0.5}, 0.3333333333333333, True),
        ({"type": "integer"}, 2**60, False),  # a small model would write digits for ever
        ({"type": "number", "multipleOf": 0.5}, 1.5, True),
        ({"type": "number", "multipleOf": 0.5}, 1.3, False),
        ({"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 2}, [], False),
        ({"type": "array", "prefixItems": [{"const": 1}], "items": False}, [1], True),
        ({"type": "string", "maxLength": 3}, "京都🏯", True),
        ({"type": "string", "maxLength": 3}, "four", False),
        ({"type": "string", "pattern": "^[a-z]+$"}, "abc", True),
        ({"type": "string", "pattern": "^[a-z]+$"}, "Abc", False),
        ({"type": "string", "format": "date"}, "2024-02-29", True),
        ({"type": "string", "format": "date"}, "tomorrow", False),
        ({"type": "string", "format": "of-our-own"}, "anything", True),
        ({"oneOf": [{"type": "string"}, {"type": "integer"}]}, 5, True),
        (
            {
                "allOf": [
                    {"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"]},
                    {"type": "object", "properties": {"b": {"const": 2}}, "required": ["b"]},
                ]
            },
            {"a": 1, "b": 2},
            True,
        ),
        ({"type": "object", "properties": {"a": {}}, "required": ["z"]}, {"z": 1}, True),
    ],
)
def test_schemas_let_through_what_they_describe(byte_tokenizer, schema, value, is_valid):
    text = json.dumps(value, ensure_ascii=False)
    assert accepts(byte_tokenizer, Guide.json_schema(schema), text) == is_valid


def test_json_has_one_layout_without_room_for_white_space(byte_tokenizer):
    guide = Guide.json_object()
    assert accepts(byte_tokenizer, guide, '{"a": [1, {"b": null}]}')
    for text in ('{"a":1}', '{ "a": 1}', '{"a": 1 }', '{"a":  1}', '{\n"a": 1}', '{"a": [1,2]}'):
        assert not accepts(byte_tokenizer, guide, text)


@pytest.mark.parametrize(
    "schema",
    [
        OPTIONAL,
        NODE,
        {"anyOf": [OPTIONAL, {"type": "array", "items": OPTIONAL}]},
        {"type": "object", "properties": {"x": {"type": ["string", "null"]}}},
        {"allOf": [OPTIONAL, {"properties": {"d": {}}}]},
        {"type": "object", "properties": {"properties": OPTIONAL, "items": {"type": "string"}}},
    ],
)
def test_a_prepared_schema_is_no_wider_than_the_given_one(schema):
    values = [
        {"b": "x"},
        {"b": "x", "extra": 1},
        {"a": 1},
        {"value": 1, "next": None},
        [{"b": "x"}, {"b": "x", "extra": 1}],
        {"x": None},
        {"properties": {"b": "x"}, "items": "y"},
        {"properties": {"b": "x", "extra": 1}},
        {},
    ]
    given, strict = map(jsonschema.Draft202012Validator, (schema, prepared(schema)))
    assert all(given.is_valid(value) for value in values if strict.is_valid(value))
    assert any(strict.is_valid(value) for value in values)
