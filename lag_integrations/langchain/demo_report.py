"""The demo's tables."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from lag_integrations.langchain.demo import Answer


def print_answers(answers: Sequence[Answer], console: Console) -> None:
    """Prints each question with its gold answer, and below it every mode's answer."""
    table = Table(title="Answers; green is right to the letter", show_lines=False)
    for heading in ("mode", "answer", "task adapter used most", "document adapter used most"):
        table.add_column(heading, overflow="fold")
    table.add_column("seconds", justify="right")
    for question, group in groupby(answers, key=lambda answer: answer.question):
        table.add_section()
        table.add_row(
            Text(question.task.replace("_", " "), style="bold"),
            Text.assemble((question.prompt, "bold"), f"\ngold: {question.answer}"),
        )
        for answer in group:
            table.add_row(
                answer.mode,
                Text(answer.text, style="green" if answer.is_right else ""),
                _most_used(answer.slots.get("task")),
                _most_used(answer.slots.get("knowledge")),
                f"{answer.seconds:.2f}",
            )
    console.print(table)


def print_scores(answers: Sequence[Answer], modes: Sequence[str], console: Console) -> None:
    """Prints how many answers of each mode are right, by task."""
    tasks = list(dict.fromkeys(answer.question.task for answer in answers))
    table = Table(title="Right answers")
    table.add_column("mode")
    for task in (*tasks, "all"):
        table.add_column(task.replace("_", " "), justify="right")
    for mode in modes:
        of_mode = [answer for answer in answers if answer.mode == mode]
        by_task = [[a for a in of_mode if a.question.task == task] for task in tasks]
        table.add_row(mode, *(_fraction(group) for group in (*by_task, of_mode)))
    console.print(table)


def _fraction(answers: Sequence[Answer]) -> str:
    return f"{sum(answer.is_right for answer in answers)}/{len(answers)}"


def _most_used(account: dict[str, Any] | None) -> str:
    if not account or not account["adapters"]:
        return "–"
    first = account["adapters"][0]
    return f"{first['adapter']} {first['share']:.0%}"
