"""A results file: JSON lines, appended whole, so that an experiment goes on where it was cut off.

The first line says what is measured, one line for each session says on what machine, and one line
for each batch holds its answers with their scores. A line that a kill cut off is removed when the
experiment goes on; everything before it counts.
"""

from __future__ import annotations

import fcntl
import gzip
import json
import os
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from lag_engine.errors import EvaluationError
from lag_engine.evaluation.systems import System

FORMAT = 2


class Asked(NamedTuple):
    """A question as a results file knows it.

    Attributes:
        id: of the question.
        task: the family of its data set.
        data_set: a column of the tables.
        metric: what it is scored by.
        cluster: questions that are not independent of each other share it.
    """

    id: str
    task: str
    data_set: str
    metric: str
    cluster: Hashable


@dataclass
class SystemResults:
    """What one system answered.

    Attributes:
        answers: by question id, with scores: "answer", "accuracy", "em", "f1", "rougel", "rprec",
            "recall", "contains", "documents", "prompt_tokens", "tokens", "finish_reason", "cut".
        seconds: by batch, with how many questions were decoded in it.
        routing: by slot, data set, layer and module: decisions for the gold adapter and all, of
            all tokens and of the tokens that decide the answer.
    """

    answers: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    seconds: list[tuple[float, int]] = field(default_factory=list)
    routing: dict[tuple[str, str, int | None, str], list[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Results:
    """A results file, read.

    Attributes:
        about: its first line: "suite", "model", "library", "settings", "fingerprint".
        questions: everything that is asked, by id.
        sessions: machines, versions, times, and what adapters were not the library's.
        systems: what each system answered, in order of appearance.
    """

    about: Mapping[str, Any]
    questions: Mapping[str, Asked]
    sessions: Sequence[Mapping[str, Any]]
    systems: Mapping[System, SystemResults]

    @classmethod
    def read(cls, path: str | Path) -> Results:
        """Reads a file, also one that gzip made smaller; a last line that was cut off is left out.

        Raises:
            EvaluationError: there is no such file, or it is none of results.
        """
        try:
            with (gzip.open if Path(path).suffix == ".gz" else open)(path, "rb") as file:
                lines = file.read().split(b"\n")[:-1]
        except OSError as error:
            raise EvaluationError(
                "Expected a results file",
                f"found: {error}",
                "check the path, or run the experiment",
            ) from error
        return cls.of([_parsed(line, f"{path}:{n}") for n, line in enumerate(lines, 1)], str(path))

    @classmethod
    def of(cls, records: Sequence[Mapping[str, Any]], where: str = "memory") -> Results:
        """Returns the results that the lines hold."""
        if not records or records[0].get("kind") != "experiment":
            raise EvaluationError(
                "Expected a results file, which begins with what is measured",
                f"found something else in {where}",
                "choose another file for the results",
            )
        about = records[0]
        if about["format"] != FORMAT:
            raise EvaluationError(
                f"Expected results in format {FORMAT}",
                f"found format {about['format']} in {where}",
                "read it with the version that wrote it",
            )
        questions = {row[0]: Asked(*row) for row in about["questions"]}
        systems: dict[System, SystemResults] = {}
        for record in records:
            if record["kind"] == "batch":
                _take(systems.setdefault(System(**record["system"]), SystemResults()), record)
        sessions = [record for record in records if record["kind"] == "session"]
        return cls(about, questions, sessions, systems)

    def scores(
        self, system: System, ids: Iterable[str] | None = None, *, field: str | None = None
    ) -> dict[str, float]:
        """Returns each answered question's score in its metric, in the order of the questions.

        Args:
            system: who answered.
            ids: only of these.
            field: another score than that of the question's metric, as "contains".
        """
        answers = self.systems[system].answers
        wanted = [i for i in (self.questions if ids is None else ids) if i in answers]
        return {i: float(answers[i][field or self.questions[i].metric]) for i in wanted}

    def common(self, systems: Iterable[System]) -> list[str]:
        """Returns the questions that all of the systems answered, in their order."""
        answered = [self.systems[system].answers for system in systems]
        return [i for i in self.questions if all(i in answers for answers in answered)]


class ResultsFile:
    """A results file being written; a context manager.

    Args:
        path: appended to if it is there, and made otherwise.
        about: the first line; "fingerprint" names what is measured.

    Raises:
        EvaluationError: the file holds another experiment or something else, or is being written.
    """

    def __init__(self, path: str | Path, about: Mapping[str, Any]) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._handle = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            self._lock()
            self._remove_cut_line()
            self.records = self._held(about)
        except BaseException:
            os.close(self._handle)
            raise

    def append(self, record: Mapping[str, Any]) -> None:
        """Writes one line, and waits until it is on the disk."""
        self.records.append(dict(record))
        line = json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"
        left = memoryview(line.encode())
        while left:
            left = left[os.write(self._handle, left) :]
        os.fsync(self._handle)

    def answered(self) -> set[tuple[System, str]]:
        """Returns what needs no answer any more."""
        held = Results.of(self.records).systems
        return {(system, i) for system, results in held.items() for i in results.answers}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.close(self._handle)

    def _lock(self) -> None:
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise EvaluationError(
                "Expected to be the only one who writes the results",
                f"found another process at {self.path}",
                "wait for it, or choose another file",
            ) from error

    def _remove_cut_line(self) -> None:
        content = self.path.read_bytes()
        os.ftruncate(self._handle, content.rfind(b"\n") + 1)

    def _held(self, about: Mapping[str, Any]) -> list[dict[str, Any]]:
        lines = self.path.read_bytes().split(b"\n")[:-1]
        self.records = [_parsed(line, f"{self.path}:{n}") for n, line in enumerate(lines, 1)]
        if not self.records:
            self.append({"kind": "experiment", "format": FORMAT, **about})
        held = Results.of(self.records, str(self.path)).about
        if held["fingerprint"] != about["fingerprint"]:
            told = ("suite", "model", "library", "settings", "documents")
            other = [name for name in told if held.get(name) != json.loads(json.dumps(about[name]))]
            raise EvaluationError(
                f"Expected {self.path} to hold this experiment",
                f"found one with another {' and '.join(other) or 'list of questions'}",
                "choose another file; one file holds one experiment",
            )
        return self.records


def _take(results: SystemResults, record: Mapping[str, Any]) -> None:
    columns: Mapping[str, Sequence[Any]] = record["answers"]
    for row in _rows(columns):
        results.answers[row.pop("id")] = row
    results.seconds.append((record["seconds"], record["decoded"]))
    for slot, layer, module, *counts in record["routing"]:
        key = (slot, record["data_set"], layer, module)
        held = results.routing.setdefault(key, [0.0] * len(counts))
        results.routing[key] = [a + b for a, b in zip(held, counts, strict=True)]


def _rows(columns: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    for values in zip(*columns.values(), strict=True):
        yield dict(zip(columns, values, strict=True))


def _parsed(line: bytes, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise EvaluationError(
            "Expected a results file of JSON lines",
            f"found in {where}: {error}",
            "choose another file for the results, or remove this line",
        ) from error
    if not isinstance(record, dict) or "kind" not in record:
        raise EvaluationError(
            "Expected a results file", f"found another line in {where}", "choose another file"
        )
    return record
