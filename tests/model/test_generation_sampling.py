"""Sampling: settings are checked, the distribution is the softmax, rows do not touch each other."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import RepetitionPenaltyLogitsProcessor, TopKLogitsWarper, TopPLogitsWarper

from lag_engine.errors import GenerationError
from lag_engine.model.generation import Request
from lag_engine.model.sampling import Sampling, TokenChooser, warp
from lag_engine.routing.plan import Plan


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_new_tokens", 0),
        ("max_new_tokens", 2.5),
        ("max_new_tokens", True),
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("temperature", "hot"),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_k", 0),
        ("top_k", 1.5),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", None),
        ("seed", -1),
        ("seed", 2**64),
        ("stop", ["a", ""]),
        ("stop", 3),
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(name, value):
    with pytest.raises(GenerationError, match=name):
        Sampling(**{name: value})


def test_one_stop_string_is_a_list_of_one():
    assert Sampling(stop="x").stop == ("x",)
    assert Sampling(stop=["x", "y", "x"]).stop == ("x", "y")
    assert Sampling(stop=None).stop == ()


@pytest.mark.parametrize("top_k", [None, 1, 3, 100])
@pytest.mark.parametrize("top_p", [1e-6, 0.3, 0.9, 1.0])
def test_warping_equals_the_warpers_of_transformers(top_k, top_p):
    scores = torch.randn(1, 20, generator=torch.Generator().manual_seed(0))
    theirs = scores / 0.7
    if top_k is not None:
        theirs = TopKLogitsWarper(top_k)(None, theirs)
    if top_p < 1:
        theirs = TopPLogitsWarper(top_p)(None, theirs)
    ours = warp(scores[0], Sampling(temperature=0.7, top_k=top_k, top_p=top_p))
    torch.testing.assert_close(ours.softmax(-1), theirs[0].softmax(-1))


def test_a_very_small_temperature_is_the_likeliest_token():
    scores = torch.tensor([100.0, 99.0, -50.0])
    ours = warp(scores, Sampling(temperature=1e-38))
    assert ours.softmax(-1).tolist() == [1.0, 0.0, 0.0]


def chooser(sampling, prompt_ids=(0,)):
    plan = Plan.from_mode("base")
    return TokenChooser(Request(tuple(prompt_ids), plan, sampling, frozenset(), 10))


def draws(scores, sampling, n):
    row = chooser(sampling)
    return torch.stack([row.scores(scores, []).argmax() for _ in range(n)])


@pytest.mark.parametrize(
    "options",
    [{"temperature": 1.0}, {"temperature": 0.5, "top_k": 4}, {"temperature": 2.0, "top_p": 0.8}],
)
def test_draws_follow_the_warped_softmax(options):
    scores = torch.tensor([2.0, 1.0, 0.5, 0.0, -1.0, -3.0])
    sampling = Sampling(seed=11, **options)
    n = 4000
    counts = draws(scores, sampling, n).bincount(minlength=6).double()
    expected = warp(scores, sampling).softmax(-1).double() * n
    possible = expected > 0
    assert counts[~possible].sum() == 0
    chi_square = ((counts - expected) ** 2 / expected)[possible].sum()
    assert chi_square < 20.5  # the 0.1 % point of chi-square with 5 degrees of freedom


def test_the_same_seed_draws_the_same_tokens_and_another_seed_others():
    scores = torch.zeros(50)
    first = draws(scores, Sampling(temperature=1.0, seed=5), 20)
    assert torch.equal(first, draws(scores, Sampling(temperature=1.0, seed=5), 20))
    assert not torch.equal(first, draws(scores, Sampling(temperature=1.0, seed=6), 20))
    assert not torch.equal(
        draws(scores, Sampling(temperature=1.0), 20), draws(scores, Sampling(temperature=1.0), 20)
    )


def test_a_rows_draws_do_not_depend_on_its_batch_mates():
    samplings = [Sampling(temperature=1.0, seed=3), Sampling(), Sampling(temperature=0.3, seed=4)]
    scores = torch.randn(3, 30, generator=torch.Generator().manual_seed(1))
    rows = [chooser(sampling) for sampling in samplings]
    together = [
        [int(row.scores(scores[i], []).argmax()) for i, row in enumerate(rows)] for _ in range(10)
    ]
    for i, sampling in enumerate(samplings):
        assert [step[i] for step in together] == draws(scores[i], sampling, 10).tolist()


def test_only_a_greedy_row_without_a_penalty_is_plain():
    assert chooser(Sampling()).is_plain
    assert chooser(Sampling(top_k=3)).is_plain
    assert not chooser(Sampling(temperature=0.1)).is_plain
    assert not chooser(Sampling(repetition_penalty=1.1)).is_plain


def test_the_repetition_penalty_is_transformers_own():
    scores = torch.randn(12, generator=torch.Generator().manual_seed(2))
    before = scores.clone()
    for prompt, generated, penalty in [([5, 6], [3], 1.7), ([7, 8, 9], [7], 1.2), ([7], [], 0.5)]:
        ours = chooser(Sampling(repetition_penalty=penalty), prompt).scores(scores, generated)
        penalise = RepetitionPenaltyLogitsProcessor(penalty)
        theirs = penalise(torch.tensor([[*prompt, *generated]]), scores[None].clone())
        torch.testing.assert_close(ours, theirs[0])
    assert torch.equal(scores, before)
