"""Rows of the tool adapter: what carries weight, and that a row is what the model will see."""

from __future__ import annotations

import json

import pytest

from lag_engine.tiny.tokenizer import TOOL_CALL_BEGIN, build_tokenizer
from lag_engine.tiny.tool_cases import SHARES
from lag_engine.tiny.tool_rows import (
    FIRST_WEIGHT,
    FORCED_WEIGHT,
    LAST_WEIGHT,
    LONGEST,
    ToolRows,
)


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


@pytest.fixture
def rows(tokenizer):
    return ToolRows(tokenizer, side="train", seed=0)


@pytest.mark.parametrize("kind", SHARES)
def test_a_row_is_the_template_and_only_the_answer_carries_weight(rows, tokenizer, kind):
    for _ in range(15):
        case = rows.maker.case(kind)
        row = rows.case(case)
        prompt = tokenizer.apply_chat_template(
            list(case.messages),
            tools=case.schemas or None,
            add_generation_prompt=True,
            return_dict=False,
        )
        assert row.ids[: row.start] == prompt
        assert row.ids[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(row.ids[row.start : -1]).strip() == case.answer
        assert not any(row.weights[: row.start])
        assert all(row.weights[row.start :])
        assert len(row.ids) == len(row.weights)


def test_names_values_and_the_decision_to_call_carry_full_weight(rows, tokenizer):
    for _ in range(80):
        case = rows.maker.case("call")
        row = rows.case(case)
        answer = zip(row.ids[row.start : -1], row.weights[row.start : -1], strict=True)
        heavy = tokenizer.decode([i for i, weight in answer if weight >= 1])
        assert set(row.weights[row.start :]) == {FORCED_WEIGHT, 1.0, FIRST_WEIGHT, LAST_WEIGHT}
        for call in case.calls:
            assert TOOL_CALL_BEGIN in heavy
            assert call.name in heavy
            for value in call.arguments.values():
                assert json.dumps(value, ensure_ascii=False).strip('"') in heavy


def test_a_conversation_keeps_its_tools_and_is_taught_every_answer(rows, tokenizer):
    assistant, end = (
        tokenizer.convert_tokens_to_ids(token) for token in ("<|assistant|>", "<|end|>")
    )
    for _ in range(20):
        row = rows.conversation()
        assert tokenizer.decode(row.ids).count("tools:") == 1
        turns = [i for i, token in enumerate(row.ids) if token == assistant]
        taught = {i for i, weight in enumerate(row.weights) if weight}
        spans = [range(i + 1, row.ids.index(end, i) + 1) for i in turns]
        assert taught == {i for span in spans for i in span}


def test_a_copied_text_is_taught_where_it_repeats(rows):
    for _ in range(30):
        row = rows.copied()
        once = (len(row.ids) - 1) // 3
        assert row.ids[1 : 1 + once] == row.ids[1 + once : 1 + 2 * once] == row.ids[1 + 2 * once :]
        assert not any(row.weights[: 1 + once])


def test_rows_are_no_longer_than_the_longest_and_those_of_the_seed(tokenizer):
    ours, theirs = (ToolRows(tokenizer, side="train", seed=1) for _ in range(2))
    for _ in range(30):
        row = ours.row(copies=0.3, conversations=0.5)
        assert len(row.ids) <= LONGEST
        assert row == theirs.row(copies=0.3, conversations=0.5)


def test_a_question_for_no_tool_is_taught_from_the_question_on_and_without_weight(rows, tokenizer):
    for _ in range(20):
        row = rows.known()
        assert not any(row.weights)
        assert tokenizer.convert_ids_to_tokens(row.ids[row.start]) == "<|user|>"
        assert "tools:" in tokenizer.decode(row.ids[: row.start])
        assert "tools:" not in tokenizer.decode(row.ids[row.start :])
