"""What `lag evaluate` can ask: KILT files, or a file of the user's own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from lag_engine.errors import EvaluationError
from lag_engine.evaluation import (
    DATA_SETS,
    EvaluationDocument,
    EvaluationQuestion,
    Metric,
    Suite,
    read_records,
)


def read_suite(
    paths: Sequence[Path], *, documents: Path | None = None, data_set: str | None = None
) -> Suite:
    """Reads KILT files or files of the user's own, told apart by what stands in their lines.

    Args:
        paths: of files of questions; all of one kind.
        documents: a file of documents, one a line: {"id" or "wikipedia_id", "text"} and, if they
            are known, "title", "kind" and "adapter".
        data_set: of KILT's; by default the first part of each file's name.

    Raises:
        EvaluationError: a file cannot be read, or a line lacks what it needs.
    """
    rows = {path: _records(path) for path in paths}
    passages = (
        [] if documents is None else [_document(r, documents) for r in read_records(documents)]
    )
    name = ", ".join(path.name for path in paths)
    if all("output" in row or "input" in row for records in rows.values() for row in records):
        questions = [
            question
            for path, records in rows.items()
            for question in _kilt_questions(path, records, data_set)
        ]
        return Suite(name, tuple(questions), tuple(passages))
    return _own_suite(name, rows, passages)


def _records(path: Path) -> list[dict[str, Any]]:
    if records := read_records(path):
        return records
    raise EvaluationError(
        f"Expected questions in {path}",
        "found an empty file",
        'write a line {"question", "answer", "document"} for each',
    )


def _kilt_questions(
    path: Path, records: Sequence[Mapping[str, Any]], data_set: str | None
) -> list[EvaluationQuestion]:
    key = data_set or path.name.split("-")[0]
    if key not in DATA_SETS:
        raise EvaluationError(
            f"Expected a data set of KILT: {', '.join(DATA_SETS)}",
            f"found {key!r} for {path.name}",
            "name it with --data-set, or keep KILT's file names",
        )
    entry = DATA_SETS[key]
    return [
        EvaluationQuestion(
            f"{key}/{row['id']}",
            _text(row, "input", path),
            tuple(o["answer"] for o in row.get("output", ()) if (o.get("answer") or "").strip()),
            data_set=entry.name,
            task=entry.task,
            metric=entry.metric,
            evidence=_evidence(row),
        )
        for row in records
    ]


def _evidence(row: Mapping[str, Any]) -> tuple[tuple[str, ...], ...]:
    """The sets of pages that prove the answer."""
    sets = (
        tuple(dict.fromkeys(str(place.get("wikipedia_id", "")).strip() for place in places))
        for places in (output.get("provenance") for output in row.get("output", ()))
        if places
    )
    return tuple(dict.fromkeys(sets))


def _own_suite(
    name: str,
    rows: Mapping[Path, Sequence[Mapping[str, Any]]],
    documents: Sequence[EvaluationDocument],
) -> Suite:
    """Lines with a question are questions; the others are documents."""
    found = {document.id: document for document in documents}
    questions: list[EvaluationQuestion] = []
    for path, records in rows.items():
        for row in records:
            if "question" not in row:
                document = _document(row, path)
                found[document.id] = document
                continue
            inline = row.get("document")
            evidence = [str(i) for i in _listed(row.get("document_id"))]
            if inline is not None:
                document = _inline(inline, evidence, found, path)
                found.setdefault(document.id, document)
                evidence = [document.id]
            questions.append(_own_question(row, evidence, len(questions) + 1, path))
    for question in questions:
        if unknown := [i for ids in question.evidence for i in ids if i not in found]:
            raise EvaluationError(
                f"Expected the document of question {question.id!r}",
                f"found none with the id {unknown[0]!r}",
                'add a line {"id", "text"} for it, or correct the id',
            )
    return Suite(name, tuple(questions), tuple(found.values()))


def _own_question(
    row: Mapping[str, Any], evidence: Sequence[str], number: int, path: Path
) -> EvaluationQuestion:
    task = str(row.get("task", "questions"))
    answers = _listed(row.get("answers", row.get("answer")))
    return EvaluationQuestion(
        str(row.get("id", number)),
        _text(row, "question", path),
        tuple(str(answer) for answer in answers),
        data_set=task,
        task=task,
        metric=cast("Metric", row.get("metric", "em")),
        evidence=(tuple(evidence),) if evidence else (),
        task_adapter=row.get("task_adapter"),
    )


def _inline(
    value: Any, ids: Sequence[str], found: Mapping[str, EvaluationDocument], path: Path
) -> EvaluationDocument:
    """A document that stands with its question; equal texts are one document."""
    row = dict(value) if isinstance(value, Mapping) else {"text": value}
    same = (d.id for d in found.values() if d.text == row.get("text"))
    row.setdefault("id", ids[0] if ids else next(same, f"document-{len(found) + 1}"))
    return _document(row, path)


def _document(row: Mapping[str, Any], path: Path) -> EvaluationDocument:
    name = row.get("id", row.get("wikipedia_id", row.get("document_id")))
    if name is None:
        raise EvaluationError(
            f"Expected a question or a document with an id in each line of {path}",
            f"found {json.dumps(row, ensure_ascii=False)[:80]}",
            'write {"question", "answer", "document"} or {"id", "text"}',
        )
    adapter = row.get("adapter")
    return EvaluationDocument(
        str(name).strip(),
        _text(row, "text", path),
        str(row.get("title", "")),
        str(row.get("kind", "")),
        {"prag": str(adapter)} if adapter else {},
    )


def _text(row: Mapping[str, Any], key: str, path: Path) -> str:
    value = row.get(key)
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        value = "\n".join(value)
    if not isinstance(value, str) or not value.strip():
        raise EvaluationError(
            f"Expected {key!r}, a text, in each line of {path}",
            f"found {value!r} in {json.dumps(row, ensure_ascii=False)[:80]}",
            "correct the line",
        )
    return value


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list) else [value]
