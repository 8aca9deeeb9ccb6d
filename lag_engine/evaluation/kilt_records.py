"""KILT's records: read, written, and aligned; one JSON object a line.

A record is ``{"id", "input", "output": [{"answer", "provenance": [{"wikipedia_id", ...}]}]}``.
Gold records have any number of outputs, each an answer, a set of evidence, or both; a prediction
has one.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lag_engine.errors import EvaluationError

Record = Mapping[str, Any]


def read_records(path: str | Path) -> list[dict[str, Any]]:
    """Returns the records of a JSON Lines file, in order; empty lines are skipped.

    Raises:
        EvaluationError: there is no such file, or a line is no JSON object with an id.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise EvaluationError(
            "Expected a UTF-8 file of JSON lines", f"found: {error}", "check the path"
        ) from error
    return [_parsed(line, f"{path}:{n}") for n, line in enumerate(lines, 1) if line.strip()]


def write_records(path: str | Path, records: Iterable[Record]) -> None:
    """Writes the records as the official scripts do, one a line, in place of what was there."""
    text = "".join(json.dumps(record) + "\n" for record in records)
    Path(path).write_text(text, encoding="utf-8")


def prediction(
    record_id: str | int, answer: str, provenance: Iterable[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """Returns a prediction's record.

    Args:
        record_id: of the gold record.
        answer: the guess.
        provenance: retrieved passages, best first, with at least their `wikipedia_id`.
    """
    return {"id": record_id, "output": [{"answer": answer, "provenance": list(provenance)}]}


def align(
    gold_records: Sequence[Record], guess_records: Sequence[Record]
) -> list[tuple[Record, Record]]:
    """Returns each gold record with its prediction, by id, in the order of the gold records.

    Ids are compared as trimmed strings. Predictions for ids that gold does not have are left out
    with a warning.

    Raises:
        EvaluationError: an id is missing or occurs twice, or a gold record has no prediction.
    """
    gold, guesses = _by_id(gold_records, "gold"), _by_id(guess_records, "prediction")
    if missing := [key for key in gold if key not in guesses]:
        raise EvaluationError(
            "Expected a prediction for each gold record",
            f"found none for {len(missing)} of {len(gold)}, as for id {missing[0]!r}",
            "predict these too; an empty answer scores 0",
        )
    if unknown := [key for key in guesses if key not in gold]:
        warnings.warn(
            f"{len(unknown)} predictions are left out: gold has no id like {unknown[0]!r}",
            stacklevel=3,
        )
    return [(record, guesses[key]) for key, record in gold.items()]


def outputs(record: Record) -> list[Mapping[str, Any]]:
    """Returns a record's outputs.

    Raises:
        EvaluationError: it has none, as the rows of the test sets, or they are no list of objects.
    """
    found = record.get("output")
    if not isinstance(found, list) or not all(isinstance(item, Mapping) for item in found):
        raise EvaluationError(
            f"Expected 'output', a list of objects, in record {record.get('id')!r}",
            "found a record without gold" if found is None else f"found {type(found).__name__}",
            "use a file with answers (train or dev); the test files have none",
        )
    return found


def gold_answers(record: Record) -> set[str]:
    """Returns a gold record's answers, trimmed; those that are empty are none."""
    answers = (item.get("answer") or "" for item in outputs(record))
    return {answer.strip() for answer in answers} - {""}


def gold_titles(record: Record) -> set[str]:
    """Returns the titles of a gold record's evidence, trimmed; those that are empty are none."""
    titles = (
        place.get("title") or "" for item in outputs(record) for place in item.get("provenance", ())
    )
    return {title.strip() for title in titles} - {""}


def _parsed(line: str, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise EvaluationError(
            "Expected a JSON object in each line",
            f"found in {where}: {error}",
            "write one object a line, without line breaks inside",
        ) from error
    if not isinstance(record, dict):
        raise EvaluationError(
            "Expected a JSON object in each line",
            f"found a {type(record).__name__} in {where}",
            "write one object a line",
        )
    return record


def _by_id(records: Sequence[Record], what: str) -> dict[str, Record]:
    found: dict[str, Record] = {}
    for position, record in enumerate(records):
        if "id" not in record:
            raise EvaluationError(
                f"Expected an id in each {what} record", f"found none in number {position + 1}",
                "add one; gold and prediction are matched by it",
            )  # fmt: skip
        key = str(record["id"]).strip()
        if key in found:
            raise EvaluationError(
                f"Expected each id once among the {what} records",
                f"found {key!r} twice",
                "remove one of them",
            )
        found[key] = record
    return found
