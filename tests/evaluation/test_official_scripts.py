"""Ours and theirs: KILT's own scripts on random records, edge cases included.

Runs where LAG_KILT_SCRIPTS names a checkout of facebookresearch/KILT.
"""

from __future__ import annotations

import copy
import importlib
import os
import random
import sys
from types import ModuleType

import pytest

from lag_engine import EvaluationError
from lag_engine.evaluation import evaluate
from lag_engine.evaluation.kilt_retrieval import evaluate_retrieval

CHECKOUT = os.environ.get("LAG_KILT_SCRIPTS", "")
ROUNDS = 300
KS = [1, 2, 5]

pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif(not CHECKOUT, reason="LAG_KILT_SCRIPTS names no checkout of KILT"),
    pytest.mark.filterwarnings("ignore:.*predictions are left out"),
]

WORDS = [
    *("the", "The", "a", "an", "cat", "Cat", "dog", "ran.", "U.S.", "naïve", "Straße", "İst"),
    *("1,000", "...", ".", "-", "", " ", "\n", "\u00a0", "北京", "SUPPORTS", '"hi"', "it's"),
]


@pytest.fixture(scope="module")
def official():
    """Their two scripts, without what they import and do not use for scores."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(CHECKOUT)
        patch.setitem(sys.modules, "nltk", ModuleType("nltk"))
        yield [importlib.import_module(f"kilt.eval_{n}") for n in ("downstream", "retrieval")]


def text(rng, least, most):
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(least, most)))


def evidence(rng):
    values = {
        "wikipedia_id": rng.choice([str(rng.randint(1, 6)), f" {rng.randint(1, 6)} ", None, 3]),
        "section": rng.choice(["A", " A", "B"]),
        "title": rng.choice(["", " ", "Cat", text(rng, 1, 2)]),
        "text": text(rng, 0, 9),
    }
    return {key: value for key, value in values.items() if rng.random() < 0.85}


def output(rng, *, answer):
    made = {"answer": answer} if rng.random() < 0.9 else {}
    if rng.random() < 0.8:
        made["provenance"] = [evidence(rng) for _ in range(rng.randint(0, 5))]
    return made


def gold_record(rng, number):
    outputs = [output(rng, answer=text(rng, 1, 6)) for _ in range(rng.randint(0, 3))]
    sure = {"answer": text(rng, 1, 3) + "x", "provenance": [evidence(rng)]}
    return {"id": number, "input": text(rng, 1, 8), "output": [*outputs, sure]}


def guess_record(rng, gold):
    known = [item["answer"] for item in gold["output"] if "answer" in item]
    answer = rng.choice([*known, *known, text(rng, 0, 9), "", " ", ".", 5])
    made = {"answer": answer, "provenance": [evidence(rng) for _ in range(rng.randint(0, 7))]}
    if rng.random() < 0.4:
        given = [place for item in gold["output"] for place in item.get("provenance", ())]
        made["provenance"] = rng.sample(given, len(given)) + made["provenance"]
    return {"id": f" {gold['id']} ", "output": [made]}


def spoil(rng, guesses):
    """One time in four, something that must be refused, or a prediction too many."""
    kind = rng.randrange(24)
    if kind == 0:
        guesses.pop()
    elif kind == 1:
        guesses.append(guesses[0])
    elif kind == 2:
        guesses[0]["output"] *= 2
    elif kind == 3:
        guesses[0]["output"] = []
    elif kind == 4:
        del guesses[0]["output"][0]["answer"]
    elif kind == 5:
        guesses.append({"id": "unknown", "output": []})


def rounds():
    for seed in range(ROUNDS):
        rng = random.Random(seed)
        gold = [gold_record(rng, number) for number in range(rng.randint(1, 5))]
        guesses = [guess_record(rng, record) for record in gold]
        rng.shuffle(guesses)
        spoil(rng, guesses)
        yield gold, guesses


def outcome(function, *arguments):
    """What comes out, flat; None where the records are refused."""
    try:
        found = function(*copy.deepcopy(arguments))
    except (AssertionError, KeyError, IndexError, ValueError, EvaluationError):
        return None
    parts = found.items()
    return {
        f"{name} {inner}": value
        for name, part in parts
        for inner, value in (part.items() if isinstance(part, dict) else [("", part)])
    }


def test_downstream_and_kilt_scores_are_theirs(official):
    downstream, retrieval = official

    def theirs(gold, guesses):
        gold, guesses = downstream.validate_input(gold, guesses)
        found = downstream._calculate_metrics(gold, guesses)
        pages = retrieval.compute(gold, guesses, [1, 5], ["wikipedia_id"])
        return {**found, "retrieval": {k: pages[k] for k in ("Rprec", "recall@5")}}

    refused = 0
    for gold, guesses in rounds():
        expected = outcome(theirs, gold, guesses)
        refused += expected is None
        assert outcome(evaluate, gold, guesses) == (expected and pytest.approx(expected))
    assert 0 < refused < ROUNDS / 2


@pytest.mark.parametrize("keys", [["wikipedia_id"], ["wikipedia_id", "section"]])
def test_retrieval_scores_are_theirs(official, keys):
    downstream, retrieval = official

    def theirs(gold, guesses):
        gold, guesses = downstream.validate_input(gold, guesses)
        return retrieval.compute(gold, retrieval.filter_answers(guesses), KS, keys)

    def ours(gold, guesses):
        return evaluate_retrieval(gold, guesses, ks=KS, rank_keys=keys)

    for gold, guesses in rounds():
        expected = outcome(theirs, gold, guesses)
        assert outcome(ours, gold, guesses) == (expected and pytest.approx(expected))
