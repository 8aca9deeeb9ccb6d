"""The training sequences of PRAG, token by token."""

from __future__ import annotations

import pytest

from lag_engine.documents.passages import Passage, QuestionAnswer
from lag_engine.documents.sequences import SequenceBuilder, SequenceFormat
from lag_engine.errors import DocumentError

PLAIN = SequenceFormat()


def chat(tokenizer, user, answer):
    turns = [{"role": "user", "content": user}, {"role": "assistant", "content": answer}]
    return tuple(tokenizer.apply_chat_template(turns, tokenize=True)["input_ids"])


def test_one_rewrite_and_three_pairs_make_the_papers_five_sequences(tokenizer, make_passage):
    passage = make_passage(0)
    (first, second, third), (rewrite,) = passage.pairs, passage.rewrites
    made = SequenceBuilder(tokenizer, PLAIN).of(passage)
    expected = [
        chat(tokenizer, f"Text: {text}\n\n{pair.question}", pair.answer)
        for pair in (first, second)
        for text in (passage.text, rewrite)
    ]
    expected.append(chat(tokenizer, third.question, third.answer))
    assert [sequence.ids for sequence in made] == expected
    assert not any(sequence.n_prompt for sequence in made), "the loss is on all tokens"


@pytest.mark.parametrize(
    ("pairs", "rewrites", "count"), [(1, 1, 2), (2, 1, 3), (4, 2, 8), (3, 0, 3), (0, 2, 3)]
)
def test_the_first_half_of_the_pairs_rounded_up_comes_with_each_text(
    tokenizer, pairs, rewrites, count, make_passage
):
    passage = make_passage(0, pairs=pairs, rewrites=rewrites)
    assert len(SequenceBuilder(tokenizer, PLAIN).of(passage)) == count


def test_alone_no_question_can_be_answered_by_reading(tokenizer, make_passage):
    passage = make_passage(0)
    made = SequenceBuilder(tokenizer, SequenceFormat(questions="alone")).of(passage)
    end = tokenizer.eos_token_id
    texts = [(*tokenizer(t)["input_ids"], end) for t in (passage.text, *passage.rewrites)]
    pairs = [chat(tokenizer, pair.question, pair.answer) for pair in passage.pairs]
    assert [sequence.ids for sequence in made] == [*texts, *pairs]


def test_without_pairs_the_passage_itself_is_learnt(tokenizer):
    passage = Passage("x", "was born in 1900.", "Rosa Sinclair")
    (sequence,) = SequenceBuilder(tokenizer, PLAIN).of(passage)
    text = tokenizer("Rosa Sinclair\nwas born in 1900.")["input_ids"]
    assert sequence.ids == (*text, tokenizer.eos_token_id)
    assert sequence.ids.count(tokenizer.eos_token_id) == 1


def test_loss_on_the_answer_leaves_out_all_that_the_prompt_has(tokenizer, make_passage):
    passage = make_passage(0, pairs=1, rewrites=0)
    style = SequenceFormat(loss_on="answer")
    (sequence,) = SequenceBuilder(tokenizer, style).of(passage)
    learnt = tokenizer.decode(sequence.ids[sequence.n_prompt :])
    assert learnt.replace(tokenizer.eos_token, "").strip() == passage.pairs[0].answer
    assert passage.pairs[0].question in tokenizer.decode(sequence.ids[: sequence.n_prompt])


def test_the_prompts_are_the_callers_and_braces_in_a_text_mean_nothing(tokenizer):
    style = SequenceFormat("Q: {question}", "{passage} {other} Q: {question}")
    passage = Passage("x", "the {question} is", pairs=(QuestionAnswer("who?", "me"),) * 2)
    first, last = SequenceBuilder(tokenizer, style).of(passage)
    assert first.ids == chat(tokenizer, "the {question} is {other} Q: who?", "me")
    assert last.ids == chat(tokenizer, "Q: who?", "me")


class WithoutTemplate:
    chat_template = None

    def __init__(self, tokenizer):
        self._tokenizer = tokenizer
        self.eos_token_id = tokenizer.eos_token_id

    def __call__(self, text, **options):
        return self._tokenizer(text, **options)


def test_a_tokenizer_without_chat_template_reads_prompt_and_answer_as_lines(tokenizer):
    passage = Passage("x", "text", pairs=(QuestionAnswer("who?", "me"),) * 2)
    last = SequenceBuilder(WithoutTemplate(tokenizer), PLAIN).of(passage)[-1]
    assert last.ids == (*tokenizer("who?\nme")["input_ids"], tokenizer.eos_token_id)


def test_a_passage_longer_than_the_context_is_refused_by_its_id(tokenizer, make_passage):
    builder = SequenceBuilder(tokenizer, PLAIN, context_length=20)
    with pytest.raises(DocumentError, match=r"'p3'.*Split it"):
        builder.of(make_passage(3, words="and then " * 20))
