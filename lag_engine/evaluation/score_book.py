"""Means, differences and shares of a results file's systems, each with its uncertainty."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from statistics import median
from typing import TypeVar

from lag_engine.evaluation.results import Results
from lag_engine.evaluation.statistics import (
    Difference,
    Interval,
    compare,
    mean_interval,
    normalised,
)
from lag_engine.evaluation.systems import System

T = TypeVar("T")


class ScoreBook:
    """Reads scores out of results.

    Means over several data sets count each data set alike, however many questions it has.
    Questions about one gold document are drawn together. Two systems are compared on the
    questions that both answered.

    Args:
        results: of one experiment.
    """

    def __init__(self, results: Results) -> None:
        self.results = results
        self._means: dict[tuple[System, str | None, str | None, bool], Interval] = {}

    @property
    def systems(self) -> list[System]:
        """The systems, in order of appearance."""
        return list(self.results.systems)

    @property
    def data_sets(self) -> list[str]:
        """The data sets that all systems have begun, in order of appearance."""
        asked = self.results.questions
        return list(dict.fromkeys(asked[i].data_set for i in self.results.common(self.systems)))

    @property
    def tasks(self) -> dict[str, str]:
        """The task of each data set."""
        return {asked.data_set: asked.task for asked in self.results.questions.values()}

    def find(self, mode: str, **fields: object) -> System | None:
        """Returns the usual system of a mode, else its first; with these fields, if any has."""
        fitting = [
            system
            for system in self.systems
            if system.mode == mode and all(getattr(system, k) == v for k, v in fields.items())
        ]
        usual = System(mode)
        return usual if usual in fitting else next(iter(fitting), None)

    def mean(
        self,
        system: System,
        *,
        data_set: str | None = None,
        field: str | None = None,
        only_proven: bool = False,
    ) -> Interval:
        """Returns the mean score, of one data set or over all.

        Args:
            system: which answered at least one of the questions.
            data_set: only this one's questions.
            field: another score than that of each question's metric, as "contains".
            only_proven: points count only where R-precision is 1, as in the KILT scores.
        """
        key = (system, data_set, field, only_proven)
        if key not in self._means:
            self._means[key] = self._mean(*key)
        return self._means[key]

    def _mean(
        self, system: System, data_set: str | None, field: str | None, only_proven: bool
    ) -> Interval:
        scores = self.results.scores(system, field=field)
        sets = (data_set,) if data_set is not None else self.data_sets
        if only_proven:
            answers = self.results.systems[system].answers
            scores = {i: s if answers[i]["rprec"] == 1 else 0.0 for i, s in scores.items()}
        questions = self.results.questions
        ids = [i for i in scores if questions[i].data_set in sets]
        weights = self._weights(ids)
        values = [weights[i] * scores[i] for i in ids]
        return mean_interval(values, clusters=[questions[i].cluster for i in ids])

    def difference(self, system: System, other: System) -> Difference:
        """Returns how far one system is above another, over all data sets."""
        ids = self.results.common([system, other])
        weights, questions = self._weights(ids), self.results.questions
        mine, theirs = (self.results.scores(s, ids) for s in (system, other))
        return compare(
            [weights[i] * mine[i] for i in ids],
            [weights[i] * theirs[i] for i in ids],
            clusters=[questions[i].cluster for i in ids],
        )

    def are_alike(self, system: System, other: System) -> bool:
        """Tells whether two systems wrote the same wherever both answered."""
        mine, theirs = (self.results.systems[s].answers for s in (system, other))
        ids = self.results.common([system, other])
        return all(mine[i]["answer"] == theirs[i]["answer"] for i in ids)

    def share(self, system: System, oracle: System) -> Interval:
        """Returns the score normalised by the oracle's, meant over tasks.

        Raises:
            EvaluationError: the oracle scores 0 in a data set.
        """
        ids = self.results.common([system, oracle])
        return normalised(
            self._by_data_set(ids, self.results.scores(system, ids)),
            self._by_data_set(ids, self.results.scores(oracle, ids)),
            tasks=self.tasks,
            clusters=self._by_data_set(ids, {i: self.results.questions[i].cluster for i in ids}),
        )

    def mean_of(self, system: System, field: str) -> float:
        """Returns the plain mean of a field of the answers, as "rprec" or "tokens"."""
        answers = self.results.systems[system].answers.values()
        return sum(float(answer[field]) for answer in answers) / len(answers)

    def seconds(self, system: System) -> float | None:
        """Returns the median over batches of seconds a question; None if nothing was decoded."""
        rates = [s / n for s, n in self.results.systems[system].seconds if n]
        return median(rates) if rates else None

    def routing(self, system: System, slot: str, *, decisive: bool = True) -> float | None:
        """Returns the share of a slot's decisions that chose the gold adapter; None if unknown.

        Args:
            system: whose answers were traced.
            slot: "task" or "knowledge".
            decisive: only tokens that decide the answer.
        """
        counts = [c for key, c in self.results.systems[system].routing.items() if key[0] == slot]
        start = 2 if decisive else 0
        total = sum(count[start + 1] for count in counts)
        return sum(count[start] for count in counts) / total if total else None

    def routing_cells(self, system: System, slot: str) -> dict[tuple[int, str], float]:
        """Returns the same share by layer and module, at the tokens that decide the answer."""
        sums: dict[tuple[int, str], list[float]] = {}
        for (of, _, layer, module), counts in self.results.systems[system].routing.items():
            if of == slot and layer is not None:
                held = sums.setdefault((layer, module), [0.0, 0.0])
                held[:] = held[0] + counts[2], held[1] + counts[3]
        return {cell: right / total for cell, (right, total) in sums.items() if total}

    def _weights(self, ids: Iterable[str]) -> dict[str, float]:
        """For each question what makes the mean over all that of the data sets' means."""
        sets = {i: self.results.questions[i].data_set for i in ids}
        sizes = Counter(sets.values())
        return {i: len(sets) / (len(sizes) * sizes[name]) for i, name in sets.items()}

    def _by_data_set(self, ids: Iterable[str], values: Mapping[str, T]) -> dict[str, list[T]]:
        found: dict[str, list[T]] = {}
        for i in ids:
            found.setdefault(self.results.questions[i].data_set, []).append(values[i])
        return found
