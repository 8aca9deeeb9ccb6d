"""Augmentation: a passage gets rewrites and questions, written by a language model.

The model is any callable from text to text, or an engine with guided decoding, whose replies always
parse. What comes back is checked: a pair stays if it is new and its answer stands in the passage.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lag_engine.documents.json_cache import JsonCache
from lag_engine.documents.passages import Passage, QuestionAnswer, content_hash
from lag_engine.documents.revisions import Augment, fingerprint
from lag_engine.documents.supported import is_rewrite, is_supported, normalised
from lag_engine.errors import DocumentError

if TYPE_CHECKING:
    from lag_engine.model.engine import LAGEngine

Complete = Callable[[str], str]
"""A prompt to its reply."""

Write = Callable[[str, int], str]
"""A prompt and the number of the attempt, from 0, to the reply."""

REWRITE_PROMPT = (
    "Say what this passage says in other words. Keep every name, number, place and date. Write "
    "the new passage and nothing else.\n\n{passage}"
)
PAIRS_PROMPT = (
    "Write {count} different questions that this passage answers, and the answers. Take each "
    "answer from the passage word for word, as short as it can be. Reply with a JSON list and "
    'nothing else, like [{{"question": "...", "answer": "..."}}].\n\n{passage}'
)


class Writers(NamedTuple):
    """Who writes.

    Attributes:
        prose: Writes a rewrite.
        pairs: Writes a JSON list of pairs.
        name: Tells one writer from another; part of an adapter's revision.
    """

    prose: Write
    pairs: Write
    name: str


@dataclass
class AugmentCounts:
    """What became of the replies so far.

    Attributes:
        pairs: Kept.
        rewrites: Kept.
        repeated: Pairs and rewrites that were there already.
        unsupported: Pairs whose answer does not stand in the passage, and rewrites that lose its
            names and numbers.
        unreadable: Replies that were no list of pairs.
        from_cache: Passages whose result was kept from before.
    """

    pairs: int = 0
    rewrites: int = 0
    repeated: int = 0
    unsupported: int = 0
    unreadable: int = 0
    from_cache: int = 0


@dataclass(frozen=True)
class Augmenter:
    """Gives passages the pairs and rewrites that they lack; call it with a passage.

    Attributes:
        writers: See `from_callable` and `from_engine`.
        n_pairs: How many pairs a passage should have; the paper's 3.
        n_rewrites: How many rewrites; the paper's 1.
        attempts: How often the model is asked before it is given up.
        cache: A folder where results are kept by content; None keeps none.
        allow_plain: A passage for which the model writes no usable pair stays without pairs;
            otherwise that is an error.
        counts: What became of the replies so far.
    """

    writers: Writers
    n_pairs: int = 3
    n_rewrites: int = 1
    attempts: int = 3
    cache: Path | None = None
    allow_plain: bool = False
    counts: AugmentCounts = field(default_factory=AugmentCounts, compare=False)

    @classmethod
    def from_callable(cls, complete: Complete, *, name: str, **options: Any) -> Augmenter:
        """Writes by a callable from prompt to reply, such as a framework's LLM.

        Args:
            complete: Is asked for prose and for JSON.
            name: Tells one model from another; part of an adapter's revision.
            **options: The attributes.
        """

        def write(prompt: str, _: int) -> str:
            return complete(prompt)

        return cls(Writers(write, write, name), **options)

    @classmethod
    def from_engine(
        cls, engine: LAGEngine, *, max_new_tokens: int = 512, n_pairs: int = 3, **options: Any
    ) -> Augmenter:
        """Writes by the local model itself; pairs are guided by their schema, so they parse.

        Args:
            engine: Answers without adapters.
            max_new_tokens: Of one reply.
            n_pairs: As the attribute.
            **options: The other attributes.
        """
        writers = _engine_writers(engine, max_new_tokens, n_pairs)
        return cls(writers, n_pairs=n_pairs, **options)

    @property
    def fingerprint(self) -> str:
        """What tells this augmentation from another; hex."""
        prompts = [REWRITE_PROMPT, PAIRS_PROMPT]
        counts = [self.n_pairs, self.n_rewrites, self.allow_plain]
        return content_hash([self.writers.name, prompts, counts])[:16]

    def __call__(self, passage: Passage) -> Passage:
        """The passage with pairs and rewrites; what it has already stays.

        Raises:
            DocumentError: The model wrote no usable pair, and plain passages are not allowed.
        """
        if len(passage.pairs) >= self.n_pairs and len(passage.rewrites) >= self.n_rewrites:
            return passage
        cache = JsonCache(self.cache)
        key = content_hash([self.fingerprint, passage.content_hash])
        found = cache.read(key)
        if found is not None:
            self.counts.from_cache += 1
        else:
            pairs = self._pairs(passage)
            found = {"pairs": [asdict(p) for p in pairs], "rewrites": self._rewrites(passage)}
            cache.write(key, found)
        pairs = [QuestionAnswer(**pair) for pair in found["pairs"]]
        return replace(passage, pairs=tuple(pairs), rewrites=tuple(found["rewrites"]))

    def _pairs(self, passage: Passage) -> list[QuestionAnswer]:
        kept = list(passage.pairs)
        prompt = PAIRS_PROMPT.format(count=self.n_pairs, passage=passage.titled_text)
        reply = ""
        for attempt in range(self.attempts):
            if len(kept) >= self.n_pairs:
                break
            reply = self.writers.pairs(prompt, attempt)
            kept = self._kept(passage, [*kept, *self._read(reply)])
        if not kept and self.n_pairs and not self.allow_plain:
            raise DocumentError(
                f"Expected {self.writers.name} to write questions whose answers stand in passage "
                f"{passage.id!r}",
                f"found none in {self.attempts} replies; the last was {reply[:120]!r}",
                "give the pairs in a file, take an abler model, or pass allow_plain=True",
            )
        kept = kept[: max(self.n_pairs, len(passage.pairs))]
        self.counts.pairs += len(kept) - len(passage.pairs)
        return kept

    def _kept(self, passage: Passage, pairs: Iterable[QuestionAnswer]) -> list[QuestionAnswer]:
        """The pairs that are new and supported; those of the passage itself stay anyway."""
        kept: dict[str, QuestionAnswer] = {}
        for pair in pairs:
            if pair not in passage.pairs and not is_supported(pair.answer, passage.titled_text):
                self.counts.unsupported += 1
            elif kept.setdefault(normalised(pair.question), pair) is not pair:
                self.counts.repeated += 1
        return list(kept.values())

    def _read(self, reply: str) -> list[QuestionAnswer]:
        try:
            return read_pairs(reply)
        except DocumentError:
            self.counts.unreadable += 1
            return []

    def _rewrites(self, passage: Passage) -> list[str]:
        kept = {normalised(text): text for text in passage.rewrites}
        own = {normalised(passage.text), normalised(passage.titled_text), ""}
        prompt = REWRITE_PROMPT.format(passage=passage.titled_text)
        for attempt in range(self.attempts * self.n_rewrites):
            if len(kept) >= self.n_rewrites:
                break
            text = self.writers.prose(prompt, attempt).strip()
            if normalised(text) in own or normalised(text) in kept:
                self.counts.repeated += 1
            elif not is_rewrite(text, passage.titled_text):
                self.counts.unsupported += 1
            else:
                kept[normalised(text)] = text
                self.counts.rewrites += 1
        return list(kept.values())


@dataclass(frozen=True)
class AugmentChain:
    """Several augmentations, one after another, as one.

    Attributes:
        steps: The first comes first.
    """

    steps: tuple[Augment, ...]

    def __call__(self, passage: Passage) -> Passage:
        """What the last step makes of it."""
        for step in self.steps:
            passage = step(passage)
        return passage

    def fingerprint_of(self, passage: Passage) -> str:
        """What tells these steps from others, for the passage as it is given; hex."""
        return content_hash([fingerprint(step, passage) for step in self.steps])[:16]


def read_pairs(reply: str) -> list[QuestionAnswer]:
    """Reads the JSON list of pairs in a reply, whatever stands before and after it.

    Raises:
        DocumentError: There is no list of objects with "question" and "answer".
    """
    start, end = reply.find("["), reply.rfind("]")
    try:
        rows = json.loads(reply[start : end + 1]) if 0 <= start < end else None
    except json.JSONDecodeError:
        rows = None
    if not isinstance(rows, list):
        raise DocumentError(
            "Expected a JSON list of questions and answers", f"found {reply[:120]!r}", "ask again"
        )
    pairs = (row for row in rows if isinstance(row, Mapping))
    texts = ((str(row.get("question", "")), str(row.get("answer", ""))) for row in pairs)
    return [QuestionAnswer(q.strip(), a.strip()) for q, a in texts if q.strip() and a.strip()]


def pairs_schema(count: int) -> dict[str, Any]:
    """The JSON schema of a reply with so many pairs."""
    text = {"type": "string", "minLength": 1, "maxLength": 300}
    pair = {
        "type": "object",
        "properties": {"question": text, "answer": text},
        "required": ["question", "answer"],
        "additionalProperties": False,
    }
    return {"type": "array", "items": pair, "minItems": count, "maxItems": count}


def _engine_writers(engine: LAGEngine, max_new_tokens: int, n_pairs: int) -> Writers:
    from lag_engine.model.guided import Guide

    guide = Guide.json_schema(pairs_schema(n_pairs))

    def write(prompt: str, attempt: int, **options: Any) -> str:
        # The first reply is the likeliest; later ones are drawn, for they must differ.
        drawn = {"temperature": 0.8, "seed": attempt} if attempt else {}
        told: Any = [{"role": "user", "content": prompt}]
        ready = told if engine.tokenizer.chat_template else prompt
        options |= {"max_new_tokens": max_new_tokens, **drawn}
        return engine.generate(ready, plan="base", **options).text

    def write_pairs(prompt: str, attempt: int) -> str:
        return write(prompt, attempt, guide=guide)

    return Writers(write, write_pairs, engine.name)
