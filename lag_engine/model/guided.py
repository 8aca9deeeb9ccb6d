"""Answers that must match: a schema, a pattern, a list of choices or a grammar, token by token.

llguidance does the matching. Compared with xgrammar 0.2.8, on one CPU core, llguidance first:
reading a vocabulary of 1,765 tokens takes 8 and 3 ms, of 128,000 tokens 0.7 and 0.3 s; compiling a
tool's schema 2 and 1 ms, with 128,000 tokens 2 and 38 ms; a mask 20 and 4 µs, with 128,000 tokens
60 to 180 and 10 to 370 µs. Both are cheap beside a forward pass. What decides is that llguidance
1.9.1 refuses a schema it cannot enforce, while xgrammar compiled `not`, `uniqueItems`,
`multipleOf`, an overlapping `oneOf` and `allOf` of two objects and then let through text that
breaks them. It also needs no compiler stack (xgrammar: triton and TVM's).
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import torch
from llguidance import LLMatcher, LLTokenizer
from torch import Tensor

from lag_engine.errors import GenerationError
from lag_engine.model.schemas import prepared

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

GuideKind = Literal["json_schema", "regex", "choices", "grammar"]

MAX_COMPILED = 64
"""Compiled guides that are kept for each tokenizer, the last used ones."""

JSON_LAYOUT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""One way to lay JSON out, that of `json.dumps`: no white space for a small model to loop in."""


_UNSPELLED = "\U0010ffff"
"""No text has this character: Unicode keeps it out of interchange."""


@dataclass(frozen=True)
class Guide:
    """What an answer must match; made by one of its class methods.

    Args:
        kind: how `source` is to be read.
        source: the schema or the choices as JSON, the pattern, or the Lark grammar.
    """

    kind: GuideKind
    source: str

    @classmethod
    def json_schema(cls, schema: Mapping[str, Any]) -> Self:
        """The answer is one JSON value that matches the schema, laid out as `json.dumps` does.

        Properties come in the schema's order. An object that lists its properties has no others,
        unless the schema says so.

        Raises:
            GenerationError: it is not a JSON object.
        """
        if not isinstance(schema, Mapping):
            raise _not_a("a JSON schema as a mapping", schema, "pass the schema's dict")
        try:
            return cls("json_schema", json.dumps(prepared(schema)))
        except (TypeError, ValueError) as error:
            raise _not_a(f"a schema of JSON's types ({error})", schema, "use these only") from error

    @classmethod
    def json_object(cls) -> Self:
        """The answer is any JSON object."""
        return cls.json_schema({"type": "object"})

    @classmethod
    def regex(cls, pattern: str) -> Self:
        """The whole answer matches the pattern; Rust's regex syntax, without look-around."""
        if not isinstance(pattern, str):
            raise _not_a("a pattern as a string", pattern, "pass the regular expression's text")
        return cls("regex", pattern)

    @classmethod
    def choices(cls, choices: Sequence[str]) -> Self:
        """The answer is one of these strings.

        Raises:
            GenerationError: there is none, or one is empty.
        """
        strings = [] if isinstance(choices, str) else list(choices)
        if not strings or not all(isinstance(choice, str) and choice for choice in strings):
            raise _not_a("a list of strings, none of them empty", choices, "name what may come")
        return cls("choices", json.dumps(strings))

    @classmethod
    def grammar(cls, lark: str) -> Self:
        """The answer matches a context-free grammar; llguidance's dialect of Lark, rule `start`."""
        if not isinstance(lark, str):
            raise _not_a("a grammar as a string", lark, "pass its text in Lark syntax")
        return cls("grammar", lark)

    def as_llguidance(self) -> dict[str, Any]:
        """The entry of llguidance's grammar list."""
        if self.kind == "json_schema":
            return {"json_schema": {**json.loads(self.source), "x-guidance": JSON_LAYOUT}}
        if self.kind == "regex":
            return dict(json.loads(LLMatcher.grammar_from_regex(self.source))["grammars"][0])
        if self.kind == "choices":
            choices = " | ".join(quoted(choice) for choice in json.loads(self.source))
            return {"lark_grammar": f"start: CHOICE\nCHOICE: {choices}"}
        return {"lark_grammar": self.source}


def quoted(text: str) -> str:
    """The text as a Lark string."""
    return json.dumps(text, ensure_ascii=False)


def _not_a(expected: str, found: object, action: str) -> GenerationError:
    return GenerationError(f"Expected {expected}", f"got {found!r:.200}", action)


class Matcher:
    """How far one row has come in its guide.

    Args:
        matcher: llguidance's, owned by this one.
    """

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    @property
    def is_finished(self) -> bool:
        """Whether nothing but the end may follow."""
        return bool(self._matcher.is_stopped())

    def mask(self, size: int) -> Tensor:
        """Which of `size` tokens may come next, end tokens where the answer may end; (V,); bool.

        Raises:
            GenerationError: the guide cannot go on, for it is too complex.
        """
        packed = self._matcher.compute_bitmask()
        self._check()
        bits = np.unpackbits(np.frombuffer(packed, dtype=np.uint8), bitorder="little")
        mask = torch.zeros(size, dtype=torch.bool)
        known = min(size, len(bits))
        mask[:known] = torch.from_numpy(bits[:known]).bool()
        return mask

    def accept(self, token_id: int) -> None:
        """Goes on by one token.

        Raises:
            GenerationError: the token does not match.
        """
        if not self.is_finished:
            self._matcher.consume_token(token_id)
            self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise GenerationError(
                "Expected an answer that can follow its guide",
                self._matcher.get_error().splitlines()[0],
                "simplify the schema, pattern or grammar",
            )


class CompiledGuide:
    """A guide for one tokenizer; makes a matcher for each row."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._start = matcher

    def matcher(self) -> Matcher:
        """A new one, at the beginning."""
        return Matcher(self._start.deep_copy())


class GuideCompiler:
    """Compiles guides for one tokenizer and keeps the last used ones; safe between threads.

    Args:
        tokenizer: a fast one.
        vocabulary_size: how many tokens the model scores.
        end_ids: the tokens that end an answer.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        vocabulary_size: int,
        end_ids: Iterable[int],
    ) -> None:
        self._tokenizer = tokenizer
        self._vocabulary_size = vocabulary_size
        self._end_ids = sorted(end_ids)
        self._vocabulary: LLTokenizer | None = None
        self._compiled: OrderedDict[tuple[Guide, str], CompiledGuide] = OrderedDict()
        self._lock = threading.Lock()

    def compile(self, guide: Guide, *, grammar: str = "start: @guide") -> CompiledGuide:
        """The guide, ready to match.

        Args:
            guide: what the answer must match.
            grammar: what stands around it, in Lark, which names it `@guide`.

        Raises:
            GenerationError: the guide is malformed or asks for what cannot be guided, or the
                tokenizer is not a fast one.
        """
        key = (guide, grammar)
        with self._lock:
            if key not in self._compiled:
                self._compiled[key] = self._compile(guide, grammar)
                while len(self._compiled) > MAX_COMPILED:
                    self._compiled.popitem(last=False)
            self._compiled.move_to_end(key)
            return self._compiled[key]

    def _compile(self, guide: Guide, grammar: str) -> CompiledGuide:
        if self._vocabulary is None:
            self._vocabulary = self._read_vocabulary()
        answer = {"name": "answer", "lark_grammar": grammar}
        whole = json.dumps({"grammars": [answer, {**guide.as_llguidance(), "name": "guide"}]})
        is_error, messages = LLMatcher.validate_grammar_with_warnings(whole, self._vocabulary)
        if is_error:
            raise GenerationError(
                f"Expected a {guide.kind.replace('_', ' ')} that can guide an answer",
                f"{messages[0].strip()} in {guide.source:.200}",
                "correct or simplify it",
            )
        return CompiledGuide(LLMatcher(self._vocabulary, whole, log_level=0))

    def _read_vocabulary(self) -> LLTokenizer:
        if not self._tokenizer.is_fast:
            raise GenerationError(
                "Expected a fast tokenizer, whose tokens' bytes can be read",
                f"{type(self._tokenizer).__name__} is not one",
                "load the model with its tokenizer.json, or leave the guide out",
            )
        return LLTokenizer(
            _for_matching(self._tokenizer),
            n_vocab=max(self._vocabulary_size, len(self._tokenizer)),
            eos_token=self._end_ids,
        )


def _for_matching(tokenizer: PreTrainedTokenizerBase) -> str:
    """The tokenizer's JSON, made to encode text in the middle of an answer.

    llguidance encodes what can only come in one way. There a text has no space put before it, and
    what spells a special token is not that token, so special ones get names that nothing spells.
    It takes an added token in angle brackets for a special one.
    """
    core = json.loads(tokenizer.backend_tokenizer.to_str())
    core["truncation"] = core["padding"] = core["post_processor"] = None
    _drop_prefix_space(core.get("pre_tokenizer"))
    names = {}
    for token in core["added_tokens"]:
        name = token["content"]
        if token["special"] or (name.startswith("<") and name.endswith(">")):
            names[name] = token["content"] = _UNSPELLED + name
            token["special"] = True
    model = core["model"]
    if isinstance(model["vocab"], dict):
        model["vocab"] = {names.get(piece, piece): i for piece, i in model["vocab"].items()}
    else:
        model["vocab"] = [[names.get(piece, piece), score] for piece, score in model["vocab"]]
    if model.get("unk_token"):
        model["unk_token"] = names.get(model["unk_token"], model["unk_token"])
    return json.dumps(core)


def _drop_prefix_space(node: object) -> None:
    if isinstance(node, dict):
        if "add_prefix_space" in node:
            node["add_prefix_space"] = False
        if "prepend_scheme" in node:
            node["prepend_scheme"] = "never"
        for part in node.get("pretokenizers", ()):
            _drop_prefix_space(part)
