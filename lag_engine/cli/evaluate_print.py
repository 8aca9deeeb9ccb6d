"""What `lag evaluate` prints of results."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from lag_engine.cli.console import out

if TYPE_CHECKING:
    from lag_engine.evaluation import Results, Suite

_EXAMPLES, _WIDTH = 2, 70


def print_examples(results: Results, suite: Suite) -> None:
    """Prints what the best system wrote to a few questions that it did not get right."""
    from lag_engine.evaluation.score_book import ScoreBook

    book = ScoreBook(results)
    best = max(book.systems, key=lambda system: book.mean(system).score)
    answers = results.systems[best].answers
    scores = results.scores(best)
    missed = [q for q in suite.questions if scores.get(q.id, 1.0) < 1][:_EXAMPLES]
    for question in missed:
        for name, text in (
            ("Asked", question.prompt),
            (f"{best.name} wrote", answers[question.id]["answer"]),
            ("right is", question.answers[0]),
        ):
            out.print(f"{name}: {_shortened(text)}", highlight=False, markup=False)
        out.print()


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _WIDTH else f"{line[: _WIDTH - 1]}…"


def print_scores(results: Results) -> None:
    """Prints each system's mean, the best first."""
    from lag_engine.evaluation.score_book import ScoreBook

    book = ScoreBook(results)
    table = Table("mode", title="Mean score, %")
    for heading in ("score", "95 %", "stands in the text", "ms a question"):
        table.add_column(heading, justify="right")
    means = {system: book.mean(system) for system in book.systems}
    for system, mean in sorted(means.items(), key=lambda item: -item[1].score):
        table.add_row(
            system.name,
            f"{100 * mean.score:.1f}",
            f"{100 * mean.low:.1f}–{100 * mean.high:.1f}",
            f"{100 * book.mean(system, field='contains').score:.1f}",
            "" if (seconds := book.seconds(system)) is None else f"{1000 * seconds:.0f}",
        )
    out.print(table)
