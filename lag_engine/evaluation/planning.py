"""The plan of each question under a system."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lag_engine.evaluation.systems import GENERATED, ROUTERS
from lag_engine.routing import LAG, SLOTS, Generated, Pinned, Plan, Routed

if TYPE_CHECKING:
    from lag_engine.evaluation.suite import EvaluationDocument, EvaluationQuestion, Suite
    from lag_engine.evaluation.systems import System
    from lag_engine.model.engine import LAGEngine
    from lag_engine.routing import Selection, Slot


class Planner:
    """Makes the plan of each question under one system.

    Args:
        engine: whose library the plans are for.
        suite: what is asked.
        seed: of what is drawn at random.
    """

    def __init__(self, engine: LAGEngine, suite: Suite, *, seed: int) -> None:
        self._engine = engine
        self._suite = suite
        self._seed = seed
        self._n_adapters: Mapping[Slot, int] = {
            slot: len(engine.library.list(slot)) if engine.library else 0 for slot in SLOTS
        }

    def plan(
        self,
        system: System,
        question: EvaluationQuestion,
        documents: Sequence[EvaluationDocument],
        generated: Mapping[str, str],
    ) -> Plan:
        """Returns the plan of one question.

        Args:
            system: under which it is asked.
            question: the question.
            documents: what it gets.
            generated: for each document id the name of its adapter that was made just now.
        """
        if system.mode == "oracle":
            return self._oracle(system, question, documents, generated)
        if system.document == "none" and system.mode != "base":
            return self._without_document(system)
        options: dict[str, Any] = {}
        if system.pins_documents:
            held = self._held(system, documents, generated)
            if isinstance(held, Generated) and system.adapters_of != GENERATED:
                mode = "rag+custom" if system.shows_text else "custom"
                return Plan(mode, self._without_document(system).task, held)
            options["adapters"] = {"knowledge": dict(held.items)}
        if system.routes_knowledge:
            options["candidates"] = self._candidates(system, question)
        if system.knowledge_routed:
            options["knowledge_routed"] = True
        return self._from_mode(system, **options)

    def _from_mode(self, system: System, mode: str = "", **options: Any) -> Plan:
        plan = self._engine.plan(
            mode or system.mode,
            retrieve_k=system.retrieve_k,
            score=system.score,
            top_k=system.top_k,
            **options,
        )
        task, knowledge = (self._clamped(plan.selection(slot), slot) for slot in SLOTS)
        return replace(plan, task=task, knowledge=knowledge)

    def _clamped(self, selection: Selection | None, slot: Slot) -> Selection | None:
        """The selection with no more candidates retrieved than there are, so that equals show."""
        if not isinstance(selection, Routed) or not isinstance(selection.router, LAG):
            return selection
        k, most = selection.router.retrieve_k, max(1, self._n_adapters[slot])
        if k == "adaptive" or k <= most:
            return selection
        return replace(selection, router=replace(selection.router, retrieve_k=most))

    def _oracle(
        self,
        system: System,
        question: EvaluationQuestion,
        documents: Sequence[EvaluationDocument],
        generated: Mapping[str, str],
    ) -> Plan:
        assert question.task_adapter is not None
        knowledge = self._held(system, documents, generated) if documents else None
        mode = "oracle" if isinstance(knowledge, Pinned) else "custom"
        return Plan(mode, Pinned(question.task_adapter), knowledge)

    @staticmethod
    def _held(
        system: System,
        documents: Sequence[EvaluationDocument],
        generated: Mapping[str, str],
    ) -> Pinned | Generated:
        """The documents' adapters: those that were made just now, else the library's."""
        if generated:
            return Generated(dict.fromkeys((generated[d.id] for d in documents), 1.0))
        return Pinned(dict.fromkeys((d.adapters[system.adapters_of] for d in documents), 1.0))

    def _without_document(self, system: System) -> Plan:
        """The plan with an empty knowledge slot; the task slot is what the mode makes of it."""
        routed = next((m for m in ROUTERS if m in system.parts), None)
        if routed is None:
            return self._engine.plan("base")
        return Plan("custom", task=self._from_mode(system, routed).task)

    def _candidates(
        self, system: System, question: EvaluationQuestion
    ) -> dict[str, list[str]] | None:
        if system.library_size is None and system.document != "wrong":
            return None
        assert self._engine.library is not None
        gold = [d.adapters[system.adapters_of] for d in self._suite.right(question)]
        names = [info.name for info in self._engine.library.list("knowledge")]
        others = [name for name in names if name not in gold]
        if system.library_size is not None:
            rng = random.Random(f"{self._seed}/{question.id}")
            rng.shuffle(others)  # so that a smaller library is part of a larger one
            others = others[: max(0, system.library_size - len(gold))]
        return {"knowledge": others if system.document == "wrong" else gold + others}
