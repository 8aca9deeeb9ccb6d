"""The tiny model's tokenizer: byte-level, with every word of the world as one token.

There are no merges: a word of the vocabulary is one token, any other word its bytes, so every text
survives a round trip. A leading space is added to every piece that has none, so that the first
word after a special token is the same token as in the middle of a sentence.
"""

from __future__ import annotations

import re
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from lag_engine.tiny.tasks import _OPENINGS
from lag_engine.tiny.words import WORDS
from lag_engine.tiny.world import RELATIONS

BEGIN, END, PAD = "<|begin|>", "<|end|>", "<|pad|>"
SPECIAL = (PAD, BEGIN, END, "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>")
MARKERS = ("[SEP]", "[START_ENT]", "[END_ENT]")
TOOL_CALL_BEGIN, TOOL_CALL_END = "<tool_call>", "</tool_call>"
_TYPE_MACRO = (
    "{% macro type_of(schema) %}"
    "{% if schema is not mapping %}any"
    "{% elif schema.get('enum') %}{{ schema['enum'] | join('|') }}"
    "{% elif schema.get('anyOf') or schema.get('oneOf') %}"
    "{% for part in schema.get('anyOf') or schema['oneOf'] %}"
    "{{ '' if loop.first else '|' }}{{ type_of(part) }}"
    "{% endfor %}"
    "{% elif schema.get('type') == 'array' %}{{ type_of(schema.get('items')) }}[]"
    "{% elif schema.get('type') is string %}{{ schema['type'] }}"
    "{% elif schema.get('type') %}{{ schema['type'] | join('|') }}"
    "{% else %}object{% endif %}"
    "{% endmacro %}"
)
_TOOL_MACRO = (
    "{% macro line_of(tool) %}"
    "{% set function = tool.get('function', tool) %}"
    "{% set parameters = function.get('parameters') or {} %}"
    "{{ function['name'] }}("
    "{% for name, schema in (parameters.get('properties') or {}).items() %}"
    "{{ '' if loop.first else ', ' }}{{ name }}"
    "{{ '' if name in (parameters.get('required') or []) else '?' }}"
    "{% set type = type_of(schema) %}{{ '' if type == 'string' else ': ' ~ type }}"
    "{% endfor %})"
    "{% set lines = (function.get('description') or '') | trim %}"
    "{{ ': ' ~ lines.split('\n')[0] if lines else '' }}"
    "{% endmacro %}"
)
_CALL_MACRO = (
    "{% macro text_of(call) %}"
    "{% set function = call.get('function', call) %}"
    f'{TOOL_CALL_BEGIN}{{"name": '
    "{{ function['name'] | tojson }}"
    ', "arguments": '
    "{{ function['arguments'] if function['arguments'] is string "
    "else function['arguments'] | tojson }}"
    f"}}{TOOL_CALL_END}"
    "{% endmacro %}"
)
CHAT_TEMPLATE = (
    f"{_TYPE_MACRO}{_TOOL_MACRO}{_CALL_MACRO}"
    "{{ bos_token }}"
    "{% if tools %}"
    "<|system|>tools:{% for tool in tools %}{{ '\n' ~ line_of(tool) }}{% endfor %}<|end|>"
    "{% endif %}"
    "{% for message in messages %}"
    "<|{{ message['role'] }}|>"
    "{{ '' if message['content'] is none else message['content'] | trim }}"
    "{% for call in message['tool_calls'] or [] %}{{ text_of(call) }}{% endfor %}"
    "<|end|>"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
"""One line for each tool, `name(argument, optional?: type): first line of its description`, strings
without their type: a byte is a token, and the base has seen few positions beyond 160."""
_COMMON = (
    "a an and are as at be by can did do does for from has have he her his how i I if in is it its "
    "me my no not of on or our she so that the their them there they this to up was we were what "
    "when where which who why will with yes you your "
    "The Text Claim Question Answer about claim right wrong text think it is SUPPORTS REFUTES "
    "Context Use question answer tool tools name arguments result true false null one two three "
    "four five six seven eight nine ten today tomorrow city weather number word list find call"
)


def vocabulary_words() -> list[str]:
    """Every word of the world and its templates, each once, in a fixed order."""
    templates = [
        text
        for rows in RELATIONS.values()
        for r in rows
        for text in (r.name, *r.statements, *r.questions)
    ]
    lists = [words for pair in WORDS.values() for words in pair]
    words = re.findall(r"[A-Za-z]+", " ".join([*lists, *templates, *_OPENINGS, _COMMON]))
    return list(dict.fromkeys(word for word in words if word not in ("x", "v")))


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer; the same at every call."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = vocabulary_words()
    pieces = [*SPECIAL, *alphabet, *(f"Ġ{w}" for w in words), *words, *MARKERS]
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(list(SPECIAL))
    core.add_tokens([AddedToken(m, lstrip=True, normalized=False) for m in MARKERS])
    core.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A", special_tokens=[(BEGIN, vocabulary[BEGIN])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=PAD,
        chat_template=CHAT_TEMPLATE,
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )


def save_tokenizer(folder: Path) -> None:
    """Writes the tokenizer beside the model."""
    build_tokenizer().save_pretrained(folder)
