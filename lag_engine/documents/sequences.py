"""A passage's training sequences, as PRAG has them, in the chat format of inference.

With the paper's one rewrite and three question-answer pairs they are five: the first two questions
each after the passage and after the rewrite, the last one alone (arXiv 2501.15915, section 3.1, and
the authors' `encode.py`: the first half of the pairs, rounded up).

A question after its passage teaches a small model to read, and it can read already: then nothing of
the answer is kept in the adapter. So there is another way too, with every question alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from lag_engine.documents.passages import Passage, QuestionAnswer
from lag_engine.errors import DocumentError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LossOn = Literal["all", "answer"]
Questions = Literal["after text", "alone"]


class TrainingSequence(NamedTuple):
    """One row of training.

    Attributes:
        ids: Token ids.
        n_prompt: Tokens at the start that are read and not learnt.
    """

    ids: tuple[int, ...]
    n_prompt: int = 0


class SequenceFormat(NamedTuple):
    """How a passage and a question become one user's message.

    Attributes:
        alone: With `{question}`.
        with_passage: With `{passage}` and `{question}`.
        loss_on: "all" tokens, as in the paper, or the "answer" only.
        questions: "after text": half of them, as in the paper; or all "alone", beside the passage
            and its rewrites by themselves.
    """

    alone: str = "{question}"
    with_passage: str = "Text: {passage}\n\n{question}"
    loss_on: LossOn = "all"
    questions: Questions = "after text"


class SequenceBuilder:
    """Turns passages into training sequences.

    Args:
        tokenizer: The model's; its chat template writes the turns. Without one, prompt and answer
            are raw text, divided by a line break.
        style: The messages' form.
        context_length: The most tokens the model reads; None if unbounded.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        style: SequenceFormat,
        *,
        context_length: int | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._style = style
        self._context_length = context_length

    def of(self, passage: Passage) -> list[TrainingSequence]:
        """The passage's sequences; without pairs, the text and its rewrites themselves.

        Raises:
            DocumentError: A sequence is longer than the model's context, or the chat template
                does not let prompt and answer be told apart.
        """
        made = list(self._rows(passage))
        longest = max(len(sequence.ids) for sequence in made)
        if self._context_length is not None and longest > self._context_length:
            raise DocumentError(
                f"Expected training sequences of at most {self._context_length} tokens, which the "
                "model reads",
                f"passage {passage.id!r} makes one of {longest}",
                "split it into shorter passages; nothing is ever cut off",
            )
        return made

    def _rows(self, passage: Passage) -> Iterator[TrainingSequence]:
        style = self._style
        is_paper = style.questions == "after text"
        if not (is_paper and passage.pairs):
            yield from self._texts(passage)
        n_after_text = (len(passage.pairs) + 1) // 2 if is_paper else 0
        for pair in passage.pairs[:n_after_text]:
            for text in (passage.titled_text, *passage.rewrites):
                prompt = _filled(style.with_passage, passage=text, question=pair.question)
                yield self._turn(prompt, pair)
        for pair in passage.pairs[n_after_text:]:
            yield self._turn(_filled(style.alone, question=pair.question), pair)

    def _texts(self, passage: Passage) -> Iterator[TrainingSequence]:
        for text in (passage.titled_text, *passage.rewrites):
            yield TrainingSequence((*self._encode(text), *self._end()))

    def _turn(self, prompt: str, pair: QuestionAnswer) -> TrainingSequence:
        if self._tokenizer.chat_template:
            asked = [{"role": "user", "content": prompt}]
            before = self._chat(asked, add_generation_prompt=True)
            ids = self._chat([*asked, {"role": "assistant", "content": pair.answer}])
        else:
            before = self._encode(f"{prompt}\n")
            ids = (*self._encode(f"{prompt}\n{pair.answer}"), *self._end())
        if self._style.loss_on == "all":
            return TrainingSequence(ids)
        if ids[: len(before)] != before:
            raise DocumentError(
                "Expected the tokens of a question to come first, then those of its answer",
                "found that this tokenizer or chat template joins or moves them",
                "train on all tokens: loss_on='all'",
            )
        return TrainingSequence(ids, len(before))

    def _chat(self, messages: Sequence[dict[str, str]], **options: Any) -> tuple[int, ...]:
        encoded: Any = self._tokenizer.apply_chat_template(
            list(messages), tokenize=True, return_dict=True, **options
        )
        return tuple(encoded["input_ids"])

    def _encode(self, text: str) -> tuple[int, ...]:
        encoded: Any = self._tokenizer(text, verbose=False)
        ids = tuple(encoded["input_ids"])
        end = self._tokenizer.eos_token_id
        return ids[:-1] if ids and ids[-1] == end else ids

    def _end(self) -> tuple[int, ...]:
        end = self._tokenizer.eos_token_id
        return () if end is None else (end,)


def _filled(template: str, **values: str) -> str:
    """The template with its fields filled at once: braces in the values mean nothing."""
    return re.sub(r"\{(\w+)\}", lambda found: values.get(found[1], found[0]), template)
