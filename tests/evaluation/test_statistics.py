from __future__ import annotations

import itertools
import random

import numpy as np
import pytest

from lag_engine import EvaluationError
from lag_engine.evaluation.statistics import compare, holm, mean_interval, normalised


def coins(n, share, seed=0):
    rng = random.Random(seed)
    return [float(rng.random() < share) for _ in range(n)]


def test_the_interval_holds_the_mean_and_narrows_with_the_root_of_n():
    wide, narrow = mean_interval(coins(100, 0.7)), mean_interval(coins(1600, 0.7))
    assert wide.low < wide.score < wide.high
    assert (wide.high - wide.low) / (narrow.high - narrow.low) == pytest.approx(4, rel=0.2)


def test_the_interval_has_the_width_of_the_normal_approximation():
    values = coins(400, 0.3)
    found, deviation = mean_interval(values), float(np.std(values)) / 20
    assert found.high - found.low == pytest.approx(2 * 1.96 * deviation, rel=0.1)


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    found = [mean_interval(coins(60, 0.6, seed)) for seed in range(100)]
    assert 88 <= sum(item.low <= 0.6 <= item.high for item in found) <= 100


def test_one_seed_gives_one_result():
    values = [random.Random(i).random() for i in range(50)]
    assert mean_interval(values, seed=3) == mean_interval(values, seed=3)
    assert mean_interval(values, seed=3) != mean_interval(values, seed=4)


def test_answers_that_are_all_right_are_not_certain():
    found = mean_interval([1.0] * 5)
    assert (found.score, found.high) == (1, 1)
    assert found.low**5 == pytest.approx(0.025)  # Clopper and Pearson
    assert mean_interval([0.0] * 5).high == pytest.approx(1 - found.low)


def test_questions_that_stand_and_fall_together_widen_the_interval():
    few = coins(30, 0.5)
    values = [value for value in few for _ in range(10)]
    clusters = [i for i in range(30) for _ in range(10)]
    alone, together = mean_interval(values), mean_interval(values, clusters=clusters)
    assert together.score == alone.score
    assert together.high - together.low == pytest.approx(
        mean_interval(few).high - mean_interval(few).low
    )
    assert together.high - together.low > 2 * (alone.high - alone.low)


def test_the_swap_test_is_the_exact_share_of_swaps_up_to_sampling():
    gaps = [0.5, 0.2, -0.1, 0.4, 0.3, -0.2, 0.1, 0.6]
    sums = [abs(sum(s * g for s, g in zip(signs, gaps, strict=True)))
            for signs in itertools.product((1, -1), repeat=8)]  # fmt: skip
    exact = sum(total >= abs(sum(gaps)) - 1e-9 for total in sums) / len(sums)
    assert compare(gaps, [0.0] * 8).p == pytest.approx(exact, abs=0.02)


def test_systems_that_answer_alike_do_not_differ():
    values = coins(40, 0.5)
    found = compare(values, values)
    assert (found.score, found.low, found.high, found.p) == (0, 0, 0, 1)


def test_the_difference_turns_its_sign_with_the_systems():
    better, worse = coins(200, 0.8), coins(200, 0.6, seed=1)
    one, other = compare(better, worse), compare(worse, better)
    assert one.score == pytest.approx(-other.score)
    assert one.p == other.p < 0.01
    assert one.low > 0


def test_two_questions_prove_nothing():
    assert compare([1.0, 1.0], [0.0, 0.0]).p > 0.4


def test_holm_raises_p_values_and_keeps_their_order():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_oracle_is_a_hundred_per_cent_of_itself():
    scores = {"nq": coins(50, 0.4), "tqa": coins(30, 0.7)}
    found = normalised(scores, scores)
    assert (found.score, found.low, found.high, found.n) == pytest.approx((1, 1, 1, 80))


def test_normalised_scores_weigh_data_sets_by_their_questions():
    # The paper's own means: LAG's 30.9 of 38.8 on NQ and 46.5 of 50.8 on TriviaQA.
    scores = {"nq": [0.309] * 30, "tqa": [0.465] * 10}
    oracle = {"nq": [0.388] * 30, "tqa": [0.508] * 10}
    expected = 0.75 * 0.309 / 0.388 + 0.25 * 0.465 / 0.508
    assert normalised(scores, oracle).score == pytest.approx(expected)


def test_tasks_count_alike_however_many_questions_they_have():
    scores = {"nq": [0.5] * 30, "tqa": [0.9] * 30, "fever": [0.2] * 5}
    oracle = {name: [1.0] * len(values) for name, values in scores.items()}
    tasks = {"nq": "qa", "tqa": "qa", "fever": "facts"}
    assert normalised(scores, oracle, tasks=tasks).score == pytest.approx((0.7 + 0.2) / 2)


def test_an_oracle_without_points_is_refused():
    with pytest.raises(EvaluationError, match="'nq'"):
        normalised({"nq": [1.0]}, {"nq": [0.0]})


def test_scores_of_other_questions_are_refused():
    with pytest.raises(EvaluationError, match="same questions"):
        compare([1.0], [1.0, 0.0])
    with pytest.raises(EvaluationError, match="same questions"):
        normalised({"nq": [1.0]}, {"nq": [1.0, 0.0]})
    with pytest.raises(EvaluationError, match="at least one score"):
        mean_interval([])
