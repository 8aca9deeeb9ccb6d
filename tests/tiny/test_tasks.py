"""The five tasks: what is asked, the answer in the task's format, and the base's own wording."""

from __future__ import annotations

import random

import pytest

from lag_engine.tiny.shipped import CONTEXT_PROMPT
from lag_engine.tiny.tasks import TASKS, ask, with_context
from lag_engine.tiny.world import KINDS, RELATIONS, is_evaluation_name, names, random_entity

VALUE_TASKS = ("slot_filling", "open_qa", "dialogue")


def cases(task, split="train", *, repeats=15):
    """Questions of the task about every relation of every kind, with what they ask about."""
    rng = random.Random(f"{task}/{split}")
    for kind in KINDS:
        for relation in RELATIONS[kind]:
            for _ in range(repeats):
                entity = random_entity(kind, rng.choice(names(kind, split)), split, rng)
                yield entity, relation, ask(task, entity, relation, split, rng)


@pytest.mark.parametrize("task", TASKS)
def test_a_question_is_its_random_states(task):
    first, again = (list(cases(task)) for _ in range(2))
    assert first == again
    assert all(question.task == task for _, _, question in first)


@pytest.mark.parametrize("task", VALUE_TASKS)
def test_both_answers_hold_the_value_and_the_prompt_does_not(task):
    for entity, relation, question in cases(task):
        value = entity.facts[relation.name]
        assert value in question.short
        assert question.sentence == f"The {relation.name} of {entity.name} is {value}."
        assert entity.name in question.prompt
        assert value == entity.name or value not in question.prompt


@pytest.mark.parametrize("task", TASKS)
def test_the_two_styles_differ(task):
    assert all(question.short != question.sentence for _, _, question in cases(task))


@pytest.mark.parametrize("task", ["fact_checking", "dialogue"])
def test_a_sentence_never_contains_the_short_form(task):
    forms = ("SUPPORTS", "REFUTES", "I think")
    for _, _, question in cases(task):
        assert not any(form in question.sentence for form in forms)


def test_slot_filling_asks_with_kilts_separator():
    for entity, relation, question in cases("slot_filling"):
        assert question.prompt == f"{entity.name} [SEP] {relation.name}"
        assert question.short == entity.facts[relation.name]


def test_entity_linking_marks_one_word_and_answers_with_the_name():
    for entity, relation, question in cases("entity_linking"):
        before, rest = question.prompt.split("[START_ENT]")
        marked, after = rest.split("[END_ENT]")
        assert marked.strip() == entity.mention
        assert before == ""
        assert entity.facts[relation.name] in after
        assert question.short == entity.name
        assert entity.name in question.sentence
        assert entity.name not in question.prompt or entity.name == entity.facts[relation.name]


def test_open_questions_use_every_wording_of_the_relation():
    asked = {}
    for entity, relation, question in cases("open_qa"):
        prompt = question.prompt.removeprefix("Question: ").replace(entity.name, "{x}")
        asked.setdefault(relation, set()).add(prompt)
    assert all(wordings == set(relation.questions) for relation, wordings in asked.items())


def test_a_claim_is_supported_exactly_if_it_states_the_fact():
    verdicts = []
    for entity, relation, question in cases("fact_checking"):
        true = any(question.prompt == f"Claim: {entity.state(relation, i)}" for i in range(3))
        assert question.short == ("SUPPORTS" if true else "REFUTES")
        verdict = "right" if true else "wrong"
        assert question.sentence == f"The claim about {entity.name} is {verdict}."
        verdicts.append(true)
    assert 0.3 < sum(verdicts) / len(verdicts) < 0.7


@pytest.mark.parametrize("split", ["train", "eval"])
def test_a_false_claims_value_is_of_the_same_side_and_kind(split):
    for entity, relation, question in cases("fact_checking", split):
        if question.short == "SUPPORTS":
            continue
        stated = [
            value
            for value in names(relation.value_kind, split)
            if question.prompt
            in {f"Claim: {entity.state(relation, i, value=value)}" for i in range(3)}
        ]
        assert len(stated) == 1
        assert stated[0] != entity.facts[relation.name]
        assert is_evaluation_name(stated[0]) == (split == "eval")


def test_a_context_goes_before_the_prompt_as_the_chain_prompt_says():
    assert with_context("A b.", "Claim: c") == "Text: A b.\n\nClaim: c"
    assert with_context("A b.", "q") == CONTEXT_PROMPT.format(context="A b.", input="q")
    assert with_context("", "Claim: c") == "Claim: c"
