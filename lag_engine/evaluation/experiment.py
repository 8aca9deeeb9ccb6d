"""An experiment: systems answer a suite's questions, and every answer goes into a results file."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

from lag_engine.errors import EvaluationError
from lag_engine.evaluation.account import library_account, session
from lag_engine.evaluation.answering import DEPTH, AdapterMaker, Answerer, Settings
from lag_engine.evaluation.kilt import Scores, score
from lag_engine.evaluation.kilt_records import prediction
from lag_engine.evaluation.results import Results, ResultsFile
from lag_engine.evaluation.routing_accuracy import Gold, count_routing
from lag_engine.evaluation.systems import ROUTERS, System, obstacle
from lag_engine.evaluation.text_scores import contains
from lag_engine.routing import Routed

if TYPE_CHECKING:
    from lag_engine.evaluation.retrieval import Retriever
    from lag_engine.evaluation.suite import EvaluationDocument, EvaluationQuestion, Suite
    from lag_engine.model.engine import LAGEngine
    from lag_engine.model.generation import Generation


class _Block(NamedTuple):
    """Questions of one data set that one system answers together."""

    system: System
    questions: list[EvaluationQuestion]


class Experiment:
    """Runs systems over a suite.

    Args:
        engine: with the library whose adapters the suite names.
        suite: what is asked.
        systems: who answers; each must be able to.
        settings: for all of them.
        retrievers: over the suite's documents, in their order; by name.
        makers: of adapters that the library does not have; by encoding, as "dyprag".

    Raises:
        EvaluationError: a system cannot run on this suite, or nobody retrieves for it.
    """

    def __init__(
        self,
        engine: LAGEngine,
        suite: Suite,
        systems: Sequence[System],
        *,
        settings: Settings | None = None,
        retrievers: Sequence[Retriever] = (),
        makers: Mapping[str, AdapterMaker] | None = None,
    ) -> None:
        self.suite = suite
        self.systems = list(dict.fromkeys(systems))
        self.settings = settings or Settings()
        self._engine = engine
        self._retrievers = {retriever.name: retriever for retriever in retrievers}
        self._makers = makers or {}
        self._answerer = Answerer(
            engine, suite, self.settings, retrievers=self._retrievers, makers=self._makers
        )
        for system in self.systems:
            self._check(system)

    def run(
        self,
        path: str | Path,
        *,
        batch: int = 25,
        progress: bool = True,
        seconds: float | None = None,
    ) -> Results:
        """Answers what the results file lacks; all systems take one batch after the other.

        So whenever it is cut off, all systems have answered nearly the same questions.

        Args:
            path: of the results file; goes on where it was cut off.
            batch: questions that are decoded together.
            progress: shows a bar on standard error.
            seconds: no new round over the systems begins that would likely end later than this.

        Raises:
            EvaluationError: the file holds another experiment, or answers under other adapters of
                the same encoding; or a prompt does not fit the model.
        """
        began = time.monotonic()
        with ResultsFile(path, self._about()) as file:
            lent = self._lent()
            _refuse_swapped(file, lent)
            rounds = self._rounds(file.answered(), batch)
            file.append({"kind": "session", **session(), "encodings": lent})
            total = sum(len(block.questions) for blocks in rounds for block in blocks)
            with _bar(is_shown=progress) as bar:
                task = bar.add_task("answers", total=total)
                slowest = 0.0
                for blocks in rounds:
                    start = time.monotonic()
                    self._answerer.forget()
                    if seconds is not None and slowest and start + slowest > began + seconds:
                        break
                    for block in blocks:
                        bar.update(task, description=block.system.name)
                        file.append(self._record(block))
                        bar.advance(task, len(block.questions))
                    slowest = max(slowest, time.monotonic() - start)
            return Results.of(file.records)

    def _lent(self) -> dict[str, str]:
        """The fingerprints of the adapters that are not the library's, by encoding."""
        used = {system.adapters_of for system in self.systems}
        return {n: maker.fingerprint for n, maker in self._makers.items() if n in used}

    def _check(self, system: System) -> None:
        reason = obstacle(system, self.suite, self._engine, made=self._makers)
        if not reason and system.retrieves and system.retriever not in self._retrievers:
            reason = f"there is no retriever {system.retriever!r}"
        if reason:
            raise EvaluationError(
                f"Expected system {system.name!r} to be able to answer {self.suite.name}",
                f"found that {reason}",
                "supply what is missing, or leave the system out",
            )

    def _rounds(self, answered: set[tuple[System, str]], size: int) -> list[list[_Block]]:
        """What is to do: in each round every system answers one batch of one data set."""
        per_set = []
        for name in self.suite.data_sets:
            asked = [q for q in self.suite.questions if q.data_set == name]
            per_set.append([asked[i : i + size] for i in range(0, len(asked), size)])
        longest = max(map(len, per_set))
        batches = [b[i] for i in range(longest) for b in per_set if i < len(b)]
        rounds = []
        for questions in batches:
            blocks = [
                _Block(system, [q for q in questions if (system, q.id) not in answered])
                for system in self.systems
            ]
            rounds.append([block for block in blocks if block.questions])
        return [blocks for blocks in rounds if blocks]

    def _record(self, block: _Block) -> dict[str, Any]:
        """Answers a block; returns its line of the results file."""
        system, questions = block
        found = [self._answerer.documents(system, question) for question in questions]
        used = [documents[: system.n_documents] for documents in found]
        answered = self._answerer.answers(system, questions, used, is_traced=self._traces(system))
        answers = answered.generations
        return {
            "kind": "batch",
            "system": system.told(),
            "data_set": questions[0].data_set,
            "seconds": round(answered.seconds, 6),
            "decoded": answered.n_decoded,
            "answers": self._columns(questions, found, answers, answered.n_cut),
            "routing": [list(count) for count in self._routing(system, questions, answers)],
        }

    def _columns(
        self,
        questions: Sequence[EvaluationQuestion],
        found: Sequence[Sequence[EvaluationDocument]],
        answers: Sequence[Generation],
        n_cut: Sequence[int],
    ) -> dict[str, list[Any]]:
        scores = [
            _scores(question, documents, answer)
            for question, documents, answer in zip(questions, found, answers, strict=True)
        ]
        return {
            "id": [question.id for question in questions],
            "answer": [answer.text.strip() for answer in answers],
            **{name: [getattr(item, name) for item in scores] for name in Scores._fields},
            "contains": [_contains(q, a) for q, a in zip(questions, answers, strict=True)],
            "documents": [[d.id for d in documents[:DEPTH]] for documents in found],
            "prompt_tokens": [answer.usage.prompt_tokens for answer in answers],
            "tokens": [answer.usage.completion_tokens for answer in answers],
            "finish_reason": [answer.finish_reason for answer in answers],
            "cut": list(n_cut),
        }

    def _traces(self, system: System) -> bool:
        routes = system.has_lag or system.mode in ROUTERS
        return self.settings.is_traced and routes and system.document not in ("wrong", "none")

    def _routing(
        self,
        system: System,
        questions: Sequence[EvaluationQuestion],
        answers: Sequence[Generation],
    ) -> Iterator[tuple[Any, ...]]:
        if not self._traces(system):
            return
        gold = [self._gold(system, question) for question in questions]
        plan = answers[0].plan
        slots = [slot for slot in plan.slots if isinstance(plan.selection(slot), Routed)]
        yield from count_routing(answers, gold, slots=slots)

    def _gold(self, system: System, question: EvaluationQuestion) -> Gold:
        adapters = (d.adapters.get(system.adapters_of) for d in self.suite.right(question))
        task = (question.task_adapter,) if question.task_adapter else ()
        return Gold(task, tuple(name for name in adapters if name is not None))

    def _about(self) -> dict[str, Any]:
        """What is measured: the file's first line."""
        model = self._engine.model
        about = {
            "suite": {"name": self.suite.name, "fingerprint": self.suite.fingerprint},
            "model": {
                "name": self._engine.name,
                "parameters": sum(p.numel() for p in model.parameters()),
                "dtype": str(model.dtype),
            },
            "library": library_account(self._engine.library),
            "settings": asdict(self.settings),
            "documents": len(self.suite.documents),
        }
        told = json.dumps(about, sort_keys=True)
        questions = [
            [q.id, q.task, q.data_set, q.metric, next((d.id for d in self.suite.right(q)), q.id)]
            for q in self.suite.questions
        ]
        fingerprint = hashlib.sha256(told.encode()).hexdigest()[:16]
        return {"fingerprint": fingerprint, **about, "questions": questions}


def _refuse_swapped(file: ResultsFile, lent: Mapping[str, str]) -> None:
    """Refuses to go on under other adapters than earlier sessions had under an encoding's name."""
    for record in file.records:
        for name, before in record.get("encodings", {}).items():
            if lent.get(name, before) != before:
                raise EvaluationError(
                    f"Expected the {name} adapters that {file.path} was begun with",
                    "found others",
                    "choose another file, or give the first library or translator again",
                )


def _scores(
    question: EvaluationQuestion,
    documents: Sequence[EvaluationDocument],
    answer: Generation,
) -> Scores:
    pages = [{"wikipedia_id": document.id} for document in documents]
    return score(question.record, prediction(question.id, answer.text, pages))


def _contains(question: EvaluationQuestion, answer: Generation) -> float:
    return max(float(contains(answer.text, gold)) for gold in question.answers)


def _bar(*, is_shown: bool) -> Progress:
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), disable=not is_shown)
