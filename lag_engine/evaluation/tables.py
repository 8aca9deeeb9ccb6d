"""The tables of a report: scores, controls, claims, options, routing, storage and time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from lag_engine.errors import EvaluationError
from lag_engine.evaluation.claims import Claim, answer_open, judge
from lag_engine.evaluation.option_tables import (
    ORDER,
    by_option,
    controls,
    library_sizes,
    retrievers,
)
from lag_engine.evaluation.score_book import ScoreBook
from lag_engine.evaluation.statistics import Interval
from lag_engine.evaluation.systems import System
from lag_engine.evaluation.table import NOTHING, Cell, Table, percent


def usual(book: ScoreBook) -> list[System]:
    """One system for each mode, as it is usually run, in the order of the papers' tables."""
    return [system for mode in ORDER if (system := book.find(mode)) is not None]


def all_tables(books: Sequence[ScoreBook]) -> list[Table]:
    """Returns the tables that the results allow.

    Args:
        books: the first is reported; all serve the comparison of library sizes.
    """
    book = books[0]
    made = [
        scores(book),
        claims(book),
        open_questions(book),
        contained(book),
        controls(book),
        by_option(book, "encoding", "Other adapters of the documents"),
        by_option(book, "retrieve_k", "Candidates reranked (K)"),
        by_option(book, "score", "Score that decides among candidates"),
        retrievers(book),
        by_option(book, "n_documents", "Documents for each question"),
        library_sizes(books),
        routing(book),
        proven(book),
        costs(book),
        storage(book),
        every_system(book),
    ]
    return [table for table in made if table is not None and table.rows]


def scores(book: ScoreBook) -> Table:
    """Every mode's score on every data set."""
    systems, oracle = usual(book), book.find("oracle", document="right")
    note = f"Per cent, with intervals of 95 %, of {_counted(book)}. The mean counts each alike."
    header = ["system", *_headings(book)]
    several = len(book.data_sets) > 1
    if several:
        header.append("mean")
    if oracle is not None:
        header.append("normalised")
        note += " Normalised: as a share of the oracle's score, meant over tasks (LAG, eq. 9)."
    rows = []
    for system in systems:
        row = [Cell(system.title), *(percent(_mean(book, system, d)) for d in book.data_sets)]
        if several:
            row.append(percent(book.mean(system)))
        if oracle is not None:
            row.append(_share(book, system, oracle))
        rows.append(tuple(row))
    return Table("Scores", note, tuple(header), tuple(rows))


def claims(book: ScoreBook) -> Table:
    """The papers' claims."""
    return Table(
        "Claims",
        "Differences are over the mean, with intervals of 95 %; p is of a paired swap test and "
        "raised for the number of claims (Holm).",
        ("claim", "of", "here", "verdict"),
        _rows(judge(book)),
    )


def open_questions(book: ScoreBook) -> Table:
    """What each option alone changes."""
    return Table(
        "Open questions",
        "What one option alone changes, against the mode as the paper has it: K 20, the score "
        "projection, one document found by BM25. Differences and p as above.",
        ("system", "against", "difference", "verdict"),
        _rows(answer_open(book)),
    )


def contained(book: ScoreBook) -> Table:
    """How often the right answer stands in what was written, in whatever form."""
    rows = [
        (
            Cell(system.title),
            *(percent(book.mean(system, data_set=d, field="contains")) for d in book.data_sets),
            percent(book.mean(system, field="contains")),
            percent(book.mean(system)),
        )
        for system in usual(book)
    ]
    return Table(
        "Right, in whatever form",
        "How often a gold answer's words stand in the written text in a row, both normalised. A "
        "mode without a task adapter answers in the model's own sentences, which an exact match "
        "counts as wrong: this tells what it did not know from what it worded otherwise.",
        ("system", *_headings(book), "mean", "mean score"),
        tuple(rows),
    )


def routing(book: ScoreBook) -> Table:
    """How often the gold adapter was chosen."""
    rows = []
    for system in book.systems:
        shares = [
            book.routing(system, slot, decisive=decisive)
            for slot in ("task", "knowledge")
            for decisive in (True, False)
        ]
        if any(share is not None for share in shares):
            cells = (NOTHING if s is None else Cell(f"{100 * s:.1f}") for s in shares)
            rows.append((Cell(system.name), *cells))
    return Table(
        "Routing accuracy",
        "Share of decisions, one for each token and module, for the gold adapter. The tokens that "
        "decide the answer are the prompt's last and each written one.",
        (
            *("system", "task adapter", "task, all tokens"),
            *("document adapter", "document, all tokens"),
        ),
        tuple(rows),
    )


def proven(book: ScoreBook) -> Table:
    """KILT scores: points only where the evidence was retrieved."""
    rows = [
        (
            Cell(system.title),
            *(percent(_mean(book, system, d, only_proven=True)) for d in book.data_sets),
            Cell(f"{100 * book.mean_of(system, 'rprec'):.1f}"),
            Cell(f"{100 * book.mean_of(system, 'recall'):.1f}"),
        )
        for system in usual(book)
        if system.retrieves
    ]
    return Table(
        "KILT scores",
        "Points count only where page-level R-precision is 1.",
        ("system", *_headings(book), "Rprec", "recall@5"),
        tuple(rows),
    )


def costs(book: ScoreBook) -> Table:
    """Time and tokens."""
    rows = [
        (
            Cell(system.name),
            _milliseconds(book, system),
            Cell(f"{book.mean_of(system, 'prompt_tokens'):.0f}"),
            Cell(f"{book.mean_of(system, 'tokens'):.1f}"),
        )
        for system in usual(book)
    ]
    return Table(
        "Time",
        "Milliseconds a question when a batch is decoded together, median over batches; recording "
        "of routed decisions is part of it where routing accuracy was measured. Measured while "
        "other work may have run on the machine: it tells orders of magnitude, not ranks.",
        ("system", "ms a question", "prompt tokens", "written tokens"),
        tuple(rows),
    )


def storage(book: ScoreBook) -> Table:
    """What the library takes."""
    kinds = (book.results.about["library"] or {}).get("kinds", {})
    rows = [
        (
            Cell(kind),
            Cell(f"{held['adapters']:,}"),
            Cell(f"{held['bytes']:,}"),
            Cell(f"{held['bytes'] / held['adapters']:,.0f}"),
        )
        for kind, held in kinds.items()
    ]
    header = ("kind", "in the library", "bytes", "bytes each")
    return Table("Storage", "Factors as stored, without padding.", header, tuple(rows))


def every_system(book: ScoreBook) -> Table:
    """Every system that was run."""
    rows = [
        (Cell(system.name), percent(mean := book.mean(system)), Cell(f"{mean.n}"))
        for system in book.systems
    ]
    note = "Mean score in per cent."
    return Table("Every system", note, ("system", "mean", "questions"), tuple(rows))


def _mean(book: ScoreBook, system: System, data_set: str, *, only_proven: bool = False) -> Interval:
    return book.mean(system, data_set=data_set, only_proven=only_proven)


def _headings(book: ScoreBook) -> list[str]:
    return [name.replace("_", " ") for name in book.data_sets]


def _rows(claims: Sequence[Claim]) -> tuple[tuple[Cell, ...], ...]:
    return tuple(tuple(map(Cell, claim)) for claim in claims)


def _counted(book: ScoreBook) -> str:
    """How many questions each data set has."""
    sizes = Counter(asked.data_set for asked in book.results.questions.values())
    told = (f"{n:,} of {name.replace('_', ' ')}" for name, n in sizes.items())
    return f"the questions ({', '.join(told)})"


def _milliseconds(book: ScoreBook, system: System) -> Cell:
    seconds = book.seconds(system)
    return NOTHING if seconds is None else Cell(f"{1000 * seconds:.1f}")


def _share(book: ScoreBook, system: System, oracle: System) -> Cell:
    try:
        return percent(book.share(system, oracle))
    except EvaluationError:  # the oracle has no point in some data set
        return NOTHING
