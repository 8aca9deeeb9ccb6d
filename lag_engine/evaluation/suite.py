"""What is asked in an experiment: questions with gold answers, and the documents that hold them."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from lag_engine.errors import EvaluationError
from lag_engine.evaluation.kilt import METRICS, Metric

if TYPE_CHECKING:
    from lag_engine.adapters.info import AdapterInfo

PAIRED, MIXED = "prag", "polyprag"
"""The encodings that a library tells by itself: knowledge adapters and mixtures."""


@dataclass(frozen=True)
class EvaluationDocument:
    """A document that questions are about.

    Attributes:
        id: unique in its suite.
        text: what a prompt shows.
        title: of it.
        kind: documents of one kind stand in for each other as wrong ones.
        adapters: for each encoding, as "prag" or "polyprag", the name of its adapter or mixture.
    """

    id: str
    text: str
    title: str = ""
    kind: str = ""
    adapters: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class EvaluationQuestion:
    """A question with its gold answers.

    Attributes:
        id: unique in its suite.
        prompt: the user's message, without documents.
        answers: any of them is right; at least one.
        data_set: a column of the tables.
        task: the family of its data set; scores are normalised within it.
        metric: what it is scored by.
        evidence: sets of document ids; each set proves the answer, also where the suite lacks some
            of them. The first that it has whole is gold.
        task_adapter: the gold adapter of the task slot; None if nobody knows.
    """

    id: str
    prompt: str
    answers: tuple[str, ...]
    data_set: str = "questions"
    task: str = "questions"
    metric: Metric = "em"
    evidence: tuple[tuple[str, ...], ...] = ()
    task_adapter: str | None = None

    @property
    def record(self) -> dict[str, Any]:
        """The question as a gold record of KILT; documents are its pages."""
        answers = [{"answer": answer} for answer in self.answers]
        sets = [{"provenance": [{"wikipedia_id": i} for i in ids]} for ids in self.evidence]
        return {"id": self.id, "input": self.prompt, "output": [*answers, *sets]}


@dataclass(frozen=True)
class Suite:
    """Questions and documents that belong together.

    Attributes:
        name: shown in reports.
        questions: in a fixed order; at least one.
        documents: what retrieval searches; may be empty.

    Raises:
        EvaluationError: an id occurs twice, a question has no answer, a metric does not exist, or
            nothing is asked.
    """

    name: str
    questions: tuple[EvaluationQuestion, ...]
    documents: tuple[EvaluationDocument, ...] = ()

    def __post_init__(self) -> None:
        _check_distinct("question", [question.id for question in self.questions])
        _check_distinct("document", [document.id for document in self.documents])
        if not self.questions:
            raise EvaluationError("Expected at least one question", "found none", "add some")
        for question in self.questions:
            _check_question(question)

    @cached_property
    def by_id(self) -> dict[str, EvaluationDocument]:
        """Each document under its id."""
        return {document.id: document for document in self.documents}

    @cached_property
    def _by_kind(self) -> dict[str, list[EvaluationDocument]]:
        kinds: dict[str, list[EvaluationDocument]] = {}
        for document in self.documents:
            kinds.setdefault(document.kind, []).append(document)
        return kinds

    @property
    def data_sets(self) -> tuple[str, ...]:
        """The data sets, in order of appearance."""
        return tuple(dict.fromkeys(question.data_set for question in self.questions))

    @cached_property
    def fingerprint(self) -> str:
        """A hash of everything that is asked and searched, and of the gold."""
        told = json.dumps(
            [[asdict(q) for q in self.questions], [asdict(d) for d in self.documents]],
            sort_keys=True,
        )
        return hashlib.sha256(told.encode()).hexdigest()[:16]

    def right(self, question: EvaluationQuestion) -> list[EvaluationDocument]:
        """The question's gold documents; none if the suite has no evidence whole."""
        known = self.by_id.keys()
        ids = next((ids for ids in question.evidence if ids and known >= set(ids)), ())
        return [self.by_id[name] for name in ids]

    def wrong(self, question: EvaluationQuestion, seed: int) -> list[EvaluationDocument]:
        """As many other documents of the same kinds, drawn for this question by the seed.

        Raises:
            EvaluationError: no document of the kind is not evidence.
        """
        rng = random.Random(f"{seed}/{question.id}")
        evidence = {name for ids in question.evidence for name in ids}
        drawn: list[EvaluationDocument] = []
        for document in self.right(question):
            others = [d for d in self._by_kind[document.kind] if d.id not in evidence]
            if not others:
                raise EvaluationError(
                    f"Expected a wrong document for question {question.id!r}",
                    f"found none of kind {document.kind!r} besides its evidence",
                    "add documents of this kind, or leave the control out",
                )
            drawn.append(rng.choice(others))
        return drawn

    def sample(self, per_data_set: int, *, seed: int = 0) -> Suite:
        """The suite with at most so many questions of each data set, drawn by the seed."""
        rng = random.Random(seed)
        kept: set[str] = set()
        for name in self.data_sets:
            ids = [question.id for question in self.questions if question.data_set == name]
            kept.update(rng.sample(ids, min(per_data_set, len(ids))))
        return replace(self, questions=tuple(q for q in self.questions if q.id in kept))

    def shuffled(self, seed: int) -> Suite:
        """The suite with its questions in an order drawn by the seed."""
        questions = list(self.questions)
        random.Random(seed).shuffle(questions)
        return replace(self, questions=tuple(questions))

    def with_library(self, adapters: Iterable[AdapterInfo]) -> Suite:
        """The suite with the adapters that a library has for it.

        A knowledge adapter or mixture is the document's whose id it carries, a task adapter that
        of the task of its name. What the suite names itself stays.
        """
        tasks: set[str] = set()
        made: dict[str, dict[str, str]] = {}
        for info in adapters:
            encoding = {"knowledge": PAIRED, "mixture": MIXED}.get(info.kind)
            if info.kind == "task":
                tasks.add(info.name)
            elif encoding and info.document_id is not None:
                made.setdefault(info.document_id, {})[encoding] = info.name
        return replace(
            self,
            documents=tuple(
                replace(d, adapters={**made.get(d.id, {}), **d.adapters}) for d in self.documents
            ),
            questions=tuple(
                replace(q, task_adapter=q.task) if q.task_adapter is None and q.task in tasks else q
                for q in self.questions
            ),
        )


def _check_distinct(what: str, ids: Sequence[str]) -> None:
    if len(set(ids)) < len(ids):
        twice = next(name for name in ids if ids.count(name) > 1)
        raise EvaluationError(
            f"Expected each {what} id once", f"found {twice!r} twice", "rename one of them"
        )


def _check_question(question: EvaluationQuestion) -> None:
    where = f"question {question.id!r}"
    if not any(answer.strip() for answer in question.answers):
        raise EvaluationError(f"Expected a gold answer in {where}", "found none", "add one")
    if question.metric not in METRICS:
        raise EvaluationError(
            f"Expected a metric of {', '.join(METRICS)} in {where}",
            f"found {question.metric!r}",
            "choose one",
        )
