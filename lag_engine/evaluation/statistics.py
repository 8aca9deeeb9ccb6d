"""How sure a score is: bootstrap intervals, a paired test, and scores normalised by the oracle's.

Questions about one document are not independent of each other: whoever knows the document of each
question passes these as `clusters`, which are then drawn and swapped whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lag_engine.errors import EvaluationError

RESAMPLES = 5_000
CONFIDENCE = 0.95
_CHUNK = 500  # resamples drawn at once; bounds memory at a few times 500 * C numbers

Floats = NDArray[np.float64]
Clusters = Sequence[Hashable] | None


class Interval(NamedTuple):
    """A mean and where it would lie in most samples of this size.

    Attributes:
        score: the mean, or the ratio of means.
        low: the lower end; at most `score`.
        high: the upper end; at least `score`.
        n: how many values it is of.
    """

    score: float
    low: float
    high: float
    n: int


class Difference(NamedTuple):
    """How far one system is above another on the same questions.

    Attributes:
        score: the mean of the differences.
        low: the lower end of its interval.
        high: the upper end.
        n: questions.
        p: probability of a mean at least this far from 0 if the two were alike.
    """

    score: float
    low: float
    high: float
    n: int
    p: float


def mean_interval(values: Sequence[float], *, clusters: Clusters = None, seed: int = 0) -> Interval:
    """Returns the mean with its percentile bootstrap interval of 95 %.

    Where all values are 0 or all are 1 no resample differs, so the exact binomial bound (Clopper
    and Pearson) is taken, over clusters: five right answers of five do not mean 100 %.

    Args:
        values: one for each question; at least one.
        clusters: what is drawn whole, for each question; by default each question alone.
        seed: of the resamples.

    Raises:
        EvaluationError: there is no value, or not one cluster for each.
    """
    sums, counts = _by_cluster([values], clusters)
    score = float(sums[0].sum() / counts.sum())
    if len(set(values)) == 1 and score in (0.0, 1.0):
        reach = 1 - ((1 - CONFIDENCE) / 2) ** (1 / len(counts))
        low, high = (0.0, reach) if score == 0 else (1 - reach, 1.0)
    else:
        low, high = _percentiles(_resampled(sums, counts, seed)[0])
    return Interval(score, low, high, len(values))


def compare(
    values: Sequence[float],
    others: Sequence[float],
    *,
    clusters: Clusters = None,
    seed: int = 0,
) -> Difference:
    """Returns the mean difference `values - others` with a paired bootstrap interval and a p-value.

    The p-value is of the two-sided paired randomisation test: if the two systems were alike, each
    question's (or cluster's) two scores could as well be swapped. It assumes no distribution and
    no size of sample, unlike a t-test, and unlike the bootstrap's own p-value it is right under
    the hypothesis it tests, which decides with few questions. It is never 0: the swaps as they
    were count as one of the `RESAMPLES`.

    Args:
        values: one system's scores.
        others: the other's, question by question.
        clusters: as for `mean_interval`.
        seed: of resamples and swaps.

    Raises:
        EvaluationError: the two differ in length, or as for `mean_interval`.
    """
    if len(values) != len(others):
        raise EvaluationError(
            "Expected the two systems' scores for the same questions",
            f"found {len(values)} and {len(others)}",
            "pass them in one order, the unanswered left out of both",
        )
    gaps = [a - b for a, b in zip(values, others, strict=True)]
    sums, counts = _by_cluster([gaps], clusters)
    low, high = _percentiles(_resampled(sums, counts, seed)[0])
    score = float(sums[0].sum() / counts.sum())
    return Difference(score, low, high, len(gaps), _swap_test(sums[0], seed))


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns the p-values raised for their number (Holm 1979), in the order given; at most 1."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    raised, highest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[i]))
        raised[i] = highest
    return raised


def normalised(
    scores: Mapping[str, Sequence[float]],
    oracle: Mapping[str, Sequence[float]],
    *,
    tasks: Mapping[str, str] | None = None,
    clusters: Mapping[str, Sequence[Hashable]] | None = None,
    seed: int = 0,
) -> Interval:
    """Returns scores as a share of the oracle's (LAG, arXiv 2507.05346, eq. 9), meant over tasks.

    A task's share is the sum over its data sets of |data set| / |task| times the ratio of the two
    means. The interval draws the same questions for both, within each data set.

    Args:
        scores: for each data set, one system's score of each question.
        oracle: the oracle's, question by question.
        tasks: for each data set the task it belongs to; None: all belong to one.
        clusters: for each data set, as for `mean_interval`.
        seed: of the resamples.

    Raises:
        EvaluationError: the two have other data sets or lengths, or the oracle scores 0.
    """
    if {k: len(v) for k, v in scores.items()} != {k: len(v) for k, v in oracle.items()}:
        raise EvaluationError(
            "Expected scores and the oracle's for the same questions of the same data sets",
            f"found {list(scores)} and {list(oracle)}",
            "run both over the whole task",
        )
    of_task = tasks or dict.fromkeys(scores, "")
    sizes: Counter[str] = Counter()
    for name, values in scores.items():
        sizes[of_task[name]] += len(values)
    n_tasks = len({of_task[name] for name in scores})
    share, drawn = 0.0, np.zeros(RESAMPLES)
    for number, (name, values) in enumerate(scores.items()):
        keys = None if clusters is None else clusters[name]
        ratio, ratios = _ratio(values, oracle[name], name, keys, (seed, number))
        weight = len(values) / sizes[of_task[name]] / n_tasks
        share += weight * ratio
        drawn += weight * ratios
    low, high = _percentiles(drawn[~np.isnan(drawn)])
    return Interval(share, min(low, share), max(high, share), sum(map(len, scores.values())))


def _ratio(
    values: Sequence[float],
    oracle: Sequence[float],
    name: str,
    clusters: Clusters,
    seed: tuple[int, int],
) -> tuple[float, Floats]:
    """The ratio of two means over one data set, and that of each resample, (RESAMPLES,)."""
    sums, counts = _by_cluster([values, oracle], clusters)
    if not sums[1].sum() > 0:
        raise EvaluationError(
            f"Expected an oracle that scores in data set {name!r}",
            "found 0 for every question",
            "look at the oracle's answers first: nothing can be normalised by 0",
        )
    mine, best = _resampled(sums, counts, seed)
    ratios = np.divide(mine, best, out=np.full(RESAMPLES, np.nan), where=best > 0)
    return float(sums[0].sum() / sums[1].sum()), ratios


def _by_cluster(rows: Sequence[Sequence[float]], clusters: Clusters) -> tuple[Floats, Floats]:
    """Sums of each row, (S, C), and sizes, (C,), of the clusters in order of appearance."""
    table = np.asarray(rows, dtype=np.float64)  # (S, n)
    keys = list(range(table.shape[1])) if clusters is None else list(clusters)
    if table.shape[1] == 0 or len(keys) != table.shape[1]:
        raise EvaluationError(
            "Expected at least one score, and a cluster for each if there are clusters",
            f"found {table.shape[1]} scores and {len(keys)} clusters",
            "leave out what was not answered",
        )
    numbers: dict[Hashable, int] = {}
    index = np.array([numbers.setdefault(key, len(numbers)) for key in keys])
    sums = np.array([np.bincount(index, weights=row) for row in table], dtype=np.float64)
    return sums, np.bincount(index).astype(np.float64)


def _resampled(sums: Floats, counts: Floats, seed: int | tuple[int, int]) -> Floats:
    """Means of resamples in which clusters are drawn with replacement; (S, RESAMPLES)."""
    rng, n = np.random.default_rng(seed), len(counts)
    parts = []
    for _ in range(0, RESAMPLES, _CHUNK):
        drawn = rng.integers(0, n, size=(_CHUNK, n), dtype=np.int32)
        parts.append(sums[:, drawn].sum(-1) / counts[drawn].sum(-1))  # (S, _CHUNK)
    return np.concatenate(parts, axis=1)


def _swap_test(sums: Floats, seed: int) -> float:
    """The share of random swaps whose mean difference is at least as far from 0."""
    rng = np.random.default_rng(seed)
    seen, n_as_far = abs(sums.sum()), 1
    for _ in range(0, RESAMPLES, _CHUNK):
        signs = 2.0 * rng.integers(0, 2, size=(_CHUNK, len(sums)), dtype=np.int8) - 1
        n_as_far += int((np.abs(signs @ sums) >= seen - 1e-9).sum())
    return min(1.0, n_as_far / (RESAMPLES + 1))


def _percentiles(means: Floats) -> tuple[float, float]:
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(means, [tail, 100 - tail])
    return float(low), float(high)
