"""The evaluation questions of the tiny world, as an experiment asks them."""

from __future__ import annotations

from lag_engine.evaluation import EvaluationDocument, EvaluationQuestion, Suite
from lag_engine.tiny import shipped


def tiny_suite(per_task: int = 200) -> Suite:
    """The evaluation questions of the tiny world, with the documents that answer them."""
    return Suite(
        "the tiny world",
        tuple(
            EvaluationQuestion(
                f"{question.task}-{number}",
                question.prompt,
                (question.answer,),
                data_set=question.task,
                task=question.task,
                metric="accuracy",
                evidence=((question.document_id,),),
                task_adapter=question.task_adapter,
            )
            for number, question in enumerate(shipped.questions("eval", per_task=per_task))
        ),
        tuple(
            EvaluationDocument(d.id, d.text, d.title, d.kind, {"prag": d.adapter})
            for d in shipped.documents("eval")
        ),
    )
