"""The tiny tokenizer: one token a word of the world, bytes for everything else."""

from __future__ import annotations

import json
import random

import pytest
from transformers import AutoTokenizer

from lag_engine.tiny.shipped import documents, questions
from lag_engine.tiny.tokenizer import (
    BEGIN,
    END,
    MARKERS,
    SPECIAL,
    build_tokenizer,
    save_tokenizer,
    vocabulary_words,
)
from lag_engine.tiny.words import WORDS

TEXTS = [
    "hello",
    "  two leading spaces",
    "trailing spaces  ",
    "line\nbreaks\r\n\n\tand tabs",
    "naïve café Ünder 東京 ☃ 😀 👩‍👩‍👧 ‮ rtl",
    "\x00\x01\x7f\ufeff\u2028",
    "don't it's we'll  n't 3.14 1,000",
    "Ada Abbott was born in Aldmoor Bay.",
    '{"name": "find", "arguments": {"x": null}}',
]


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def encode(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def spaced(text):
    """The text as it comes back: every piece begins with a white space."""
    return text if text[:1].isspace() else f" {text}"


@pytest.mark.parametrize("text", TEXTS)
def test_text_survives_a_round_trip_up_to_one_leading_space(tokenizer, text):
    assert tokenizer.decode(encode(tokenizer, text)) == spaced(text)


def test_random_characters_survive_a_round_trip(tokenizer):
    rng = random.Random(0)
    ranges = ((1, 0x80), (0x80, 0x800), (0x800, 0xD800), (0xE000, 0x10000), (0x10000, 0x110000))
    for _ in range(300):
        text = "".join(chr(rng.randrange(*rng.choice(ranges))) for _ in range(30))
        decoded = tokenizer.decode(encode(tokenizer, text))
        assert decoded.removeprefix(" ") == text.removeprefix(" ")


@pytest.mark.parametrize("kind", WORDS)
def test_a_word_of_the_world_is_one_token_wherever_it_stands(tokenizer, kind):
    for word in " ".join(WORDS[kind]).split():
        (token,) = encode(tokenizer, word)
        assert encode(tokenizer, f" {word}") == [token]
        assert encode(tokenizer, f"the {word}.")[1] == token
        assert tokenizer.decode([token]) == f" {word}"


def test_every_template_word_is_one_token(tokenizer):
    words = vocabulary_words()
    assert len(set(words)) == len(words)
    assert {len(encode(tokenizer, word)) for word in words} == {1}


def test_what_ships_is_read_without_falling_back_to_bytes(tokenizer):
    """Words are one token and punctuation one byte, so that texts are as short as they can be."""
    allowed = set(".?!:,\n")
    for text in (*(d.text for d in documents()), *(q.prompt for q in questions(per_task=40))):
        for token in tokenizer.convert_ids_to_tokens(encode(tokenizer, text)):
            assert len(token.removeprefix("Ġ")) > 1 or token in {*allowed, "Ċ", "Ġa", "ĠI", "Ġi"}


@pytest.mark.parametrize("token", [*SPECIAL, *MARKERS])
def test_special_tokens_and_markers_are_one_token(tokenizer, token):
    (found,) = encode(tokenizer, token)
    assert tokenizer.convert_ids_to_tokens(found) == token


def test_a_marker_takes_the_white_space_before_it(tokenizer):
    """So the mark is the same token in a sentence and after a line break."""
    one = encode(tokenizer, "Ada[SEP] employer")
    assert encode(tokenizer, "Ada [SEP] employer") == one
    assert encode(tokenizer, "Ada\n\n[SEP] employer") == one


def test_ids_have_no_gap_and_the_padding_is_no_end(tokenizer):
    assert sorted(tokenizer.get_vocab().values()) == list(range(len(tokenizer)))
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert (tokenizer.bos_token, tokenizer.eos_token) == (BEGIN, END)


def test_plain_text_begins_with_the_begin_token(tokenizer):
    ids = tokenizer("Ada Abbott")["input_ids"]
    assert ids == [tokenizer.bos_token_id, *encode(tokenizer, "Ada Abbott")]


CONVERSATIONS = [
    [{"role": "user", "content": "Where was Ada Abbott born?"}],
    [
        {"role": "system", "content": " Answer the question. "},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "tool", "content": "{}"},
        {"role": "user", "content": "Claim: no"},
    ],
]


@pytest.mark.parametrize("messages", CONVERSATIONS)
def test_the_chat_template_begins_once_and_ends_with_the_assistants_turn(tokenizer, messages):
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert ids.count(tokenizer.bos_token_id) == 1
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.convert_ids_to_tokens(ids[-1]) == "<|assistant|>"
    assert ids.count(tokenizer.eos_token_id) == len(messages)
    roles = [t[2:-2] for t in tokenizer.convert_ids_to_tokens(ids) if t in SPECIAL[3:]]
    assert roles == [*(m["role"] for m in messages), "assistant"]


def test_a_finished_conversation_ends_with_the_end_token(tokenizer):
    ids = tokenizer.apply_chat_template(
        [*CONVERSATIONS[0], {"role": "assistant", "content": "In Aldmoor Bay."}], return_dict=False
    )
    assert ids[-1] == tokenizer.eos_token_id


def test_the_tokenizer_saved_and_loaded_again_is_the_same(tokenizer, tmp_path):
    save_tokenizer(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.get_vocab() == tokenizer.get_vocab()
    assert loaded.chat_template == tokenizer.chat_template
    assert (loaded.bos_token_id, loaded.eos_token_id, loaded.pad_token_id) == (
        tokenizer.bos_token_id,
        tokenizer.eos_token_id,
        tokenizer.pad_token_id,
    )
    assert loaded.padding_side == tokenizer.padding_side
    for text in (*TEXTS, "Ada [SEP] born", "x\n\n[START_ENT] Abbott [END_ENT] was"):
        assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]
        assert loaded.decode(encode(loaded, text)) == tokenizer.decode(encode(tokenizer, text))
    for messages in CONVERSATIONS:
        ours, theirs = (
            t.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
            for t in (loaded, tokenizer)
        )
        assert ours == theirs


def test_two_builds_give_the_same_ids(tokenizer):
    assert build_tokenizer().get_vocab() == tokenizer.get_vocab()


PLAIN_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "<|{{ message['role'] }}|>{{ message['content'] | trim }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
"""What every adapter but the one for tools was trained with."""
UNUSUAL = [
    [{"role": "user", "content": "Hi", "name": "ada"}],
    [{"role": "user", "content": "a"}, {"role": "user", "content": "b\n\nc "}],
    [{"role": "assistant", "content": "a"}, {"role": "system", "content": "東京 {{ x }}"}],
]


def render(tokenizer, messages, *, tools=None, **options):
    return tokenizer.apply_chat_template(messages, tools=tools, tokenize=False, **options)


@pytest.mark.parametrize("messages", [*CONVERSATIONS, *UNUSUAL])
@pytest.mark.parametrize("tools", [None, []])
def test_without_tools_the_template_writes_what_it_always_wrote(tokenizer, messages, tools):
    for begins in (True, False):
        options = {"add_generation_prompt": begins}
        expected = render(tokenizer, messages, chat_template=PLAIN_TEMPLATE, **options)
        assert render(tokenizer, messages, tools=tools, **options) == expected


def function(name, description=None, properties=None, required=()):
    parameters = {"type": "object", "properties": properties or {}, "required": list(required)}
    described = {} if description is None else {"description": description}
    return {"type": "function", "function": {"name": name, **described, "parameters": parameters}}


BOOK = function(
    "book_room",
    "Book a room.\n\nArgs:\n    town: where",
    {
        "town": {"type": "string", "description": "where"},
        "size": {"type": "string", "enum": ["small", "large"]},
        "nights": {"type": "integer"},
        "view": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "guests": {"type": "array", "items": {"type": "string"}},
    },
    ("town", "nights"),
)


def test_each_tool_is_one_line_with_its_arguments_and_its_first_line(tokenizer):
    text = render(tokenizer, CONVERSATIONS[0], tools=[BOOK, function("stop_clock")])
    assert text.startswith(
        "<|begin|><|system|>tools:\n"
        "book_room(town, size?: small|large, nights: integer, view?: string|null, "
        "guests?: string[]): Book a room.\n"
        "stop_clock()<|end|><|user|>"
    )


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"x": {"type": "integer"}}},
        {"$ref": "#/$defs/Room"},
        {"allOf": [{"$ref": "#/$defs/Room"}]},
        {"type": ["string", "null"]},
        {"type": "array"},
        {"oneOf": [{"type": "array", "items": {"enum": [1, 2]}}, {"const": 3}]},
        {},
        True,
    ],
)
def test_schemas_of_every_form_are_written_without_an_error(tokenizer, schema):
    text = render(tokenizer, CONVERSATIONS[0], tools=[function("f", None, {"x": schema})])
    assert "\nf(x?: " in text


@pytest.mark.parametrize("bare", [{"name": "f"}, {"name": "f", "parameters": None}])
def test_a_tool_without_parameters_is_its_name(tokenizer, bare):
    for tool in (bare, {"type": "function", "function": bare}):
        assert "tools:\nf()<|end|>" in render(tokenizer, CONVERSATIONS[0], tools=[tool])


@pytest.mark.parametrize("content", ["", None])
@pytest.mark.parametrize("as_text", [True, False])
def test_calls_are_written_as_json_one_after_another_and_results_are_turns(
    tokenizer, content, as_text
):
    calls = [("book_room", {"town": "Zürich 東京", "nights": 2}), ("stop_clock", {})]
    written = [
        f'<tool_call>{{"name": "{name}", "arguments": {json.dumps(a, ensure_ascii=False)}}}'
        "</tool_call>"
        for name, a in calls
    ]
    called = [
        {
            "id": "1",
            "type": "function",
            "function": {
                "name": name,
                "arguments": json.dumps(a, ensure_ascii=False) if as_text else a,
            },
        }
        for name, a in calls
    ]
    messages = [
        *CONVERSATIONS[0],
        {"role": "assistant", "content": content, "tool_calls": called},
        {"role": "tool", "content": " done ", "tool_call_id": "1", "name": "book_room"},
    ]
    text = render(tokenizer, messages, tools=[BOOK])
    assert text.endswith(f"<|assistant|>{''.join(written)}<|end|><|tool|>done<|end|>")


def test_a_call_in_the_tokenizers_words_is_as_in_the_tools_line(tokenizer):
    """A name is copied token by token, so it must be the same tokens in both places."""
    for name in ("book_room", "city", "findAnswer", "x1", "tool_weather"):
        line = encode(tokenizer, f"tools:\n{name}(")
        call = encode(tokenizer, f'<tool_call>{{"name": "{name}"')
        tokens = encode(tokenizer, f"\n{name}(")[2:-1]
        assert any(line[i : i + len(tokens)] == tokens for i in range(len(line)))
        assert any(call[i : i + len(tokens)] == tokens for i in range(len(call)))
