"""The tables of a report: scores, controls, claims, options, routing, storage and time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from lag_engine.errors import EvaluationError
from lag_engine.evaluation.claims import judge
from lag_engine.evaluation.score_book import ScoreBook
from lag_engine.evaluation.statistics import Interval
from lag_engine.evaluation.systems import Source, System

ORDER = (
    *("base", "arrow", "spectr", "lag", "rag", "prag", "dyprag", "polyprag"),
    *("rag+lag", "prag+lag", "dyprag+lag", "polyprag+lag", "rag+prag+lag", "oracle"),
)


T = TypeVar("T")


class Cell(NamedTuple):
    """A cell's text, and a smaller one such as an interval."""

    text: str
    note: str = ""


@dataclass(frozen=True)
class Table:
    """A table of a report.

    Attributes:
        title: a few words.
        note: what the reader must know.
        header: column names; the first names the rows.
        rows: cells, as many as columns.
    """

    title: str
    note: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


NOTHING = Cell("–")


def percent(interval: Interval) -> Cell:
    """A score in per cent, with its interval."""
    return Cell(
        f"{100 * interval.score:.1f}", f"{100 * interval.low:.1f}–{100 * interval.high:.1f}"
    )


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
    note = "Per cent, with intervals of 95 %. The mean counts each data set alike."
    header = ["system", *book.data_sets]
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
    rows = [(Cell(c.text), Cell(c.source), Cell(c.evidence), Cell(c.verdict)) for c in judge(book)]
    return Table(
        "Claims",
        "Differences are over the mean, with intervals of 95 %; p is of a paired swap test and "
        "raised for the number of claims (Holm).",
        ("claim", "of", "here", "verdict"),
        tuple(rows),
    )


def controls(book: ScoreBook) -> Table:
    """What the document contributes: the retrieved one, the right one, a wrong one, none."""
    sources: tuple[Source, ...] = ("retrieved", "right", "wrong", "none")
    rows = [
        (
            Cell(_base_name(base, "document")),
            *(_cell(book, _find(group, "document", source)) for source in sources),
        )
        for base, group in _groups(book, "document").items()
    ]
    return Table(
        "Controls",
        "Mean score by whose document a question got. A system that does as well with a wrong "
        "document has learnt the answers' format and not the document. For routed systems, "
        "“right” is the whole library, “wrong” the library without the gold adapter, and “none” "
        "an empty knowledge slot.",
        ("system", *sources),
        tuple(rows),
    )


def by_option(book: ScoreBook, option: str, title: str) -> Table:
    """The mean score of systems that differ in one option only."""
    groups = _groups(book, option)
    values = _ordered({getattr(system, option) for group in groups.values() for system in group})
    rows = [
        (
            Cell(_base_name(base, option)),
            *(_cell(book, _find(group, option, value)) for value in values),
        )
        for base, group in groups.items()
    ]
    header = ("system", *(str(value) or "as usual" for value in values))
    return Table(title, "Mean score in per cent.", header, tuple(rows))


def retrievers(book: ScoreBook) -> Table:
    """What each retriever finds, and what the systems make of it."""
    groups = _groups(book, "retriever")
    names = _ordered({system.retriever for group in groups.values() for system in group})
    rows = []
    for name in names:
        found = [_find(group, "retriever", name) for group in groups.values()]
        one = next(system for system in found if system is not None)
        recalls = (f"{100 * book.mean_of(one, field):.1f}" for field in ("rprec", "recall"))
        rows.append((Cell(name), *map(Cell, recalls), *(_cell(book, s) for s in found)))
    header = ("retriever", "Rprec", "recall@5", *(_base_name(s, "retriever") for s in groups))
    return Table("Retrievers", "In per cent.", header, tuple(rows))


def library_sizes(books: Sequence[ScoreBook]) -> Table | None:
    """Mean scores by the number of knowledge adapters to choose from."""
    found = sizes(books)
    counts = sorted({count for series in found.values() for count in series})
    if len(counts) < 2:
        return None
    rows = tuple(
        (Cell(name), *(percent(series[n]) if n in series else NOTHING for n in counts))
        for name, series in found.items()
    )
    note = "Mean score by how many knowledge adapters could be chosen."
    return Table("Library size", note, ("system", *(f"{n:,}" for n in counts)), rows)


def sizes(books: Sequence[ScoreBook]) -> dict[str, dict[int, Interval]]:
    """For each system that routes knowledge, its mean by the number of knowledge adapters."""
    found: dict[str, dict[int, Interval]] = {}
    for book in books:
        kinds = (book.results.about["library"] or {}).get("kinds", {})
        whole = kinds.get("knowledge", {}).get("adapters", 0)
        for system in book.systems:
            if system.routes_knowledge and system.document in ("right", "retrieved"):
                series = found.setdefault(_base_name(system, "library_size"), {})
                series[system.library_size or whole] = book.mean(system)
    return {name: dict(sorted(series.items())) for name, series in found.items() if len(series) > 1}


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
        ("system", *book.data_sets, "Rprec", "recall@5"),
        tuple(rows),
    )


def costs(book: ScoreBook) -> Table:
    """Time and tokens."""
    rows = [
        (
            Cell(system.name),
            Cell(f"{1000 * book.seconds(system):.1f}"),
            Cell(f"{book.mean_of(system, 'prompt_tokens'):.0f}"),
            Cell(f"{book.mean_of(system, 'tokens'):.1f}"),
        )
        for system in usual(book)
    ]
    return Table(
        "Time",
        "Milliseconds a question when a batch is decoded together, median over batches; recording "
        "of routed decisions is part of it where routing accuracy was measured.",
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


def _cell(book: ScoreBook, system: System | None) -> Cell:
    answered = system is not None and system in book.results.systems
    return percent(book.mean(system)) if system is not None and answered else NOTHING


def _share(book: ScoreBook, system: System, oracle: System) -> Cell:
    try:
        return percent(book.share(system, oracle))
    except EvaluationError:  # the oracle has no point in some data set
        return NOTHING


def _base(system: System, option: str) -> System:
    """The system with one option set back."""
    return System(**{k: v for k, v in system.told().items() if k != option})


def _base_name(system: System, option: str) -> str:
    return _base(system, option).name


def _without(book: ScoreBook, option: str) -> list[System]:
    """The systems with one option set back, once each, in the order of the tables."""
    bases = dict.fromkeys(_base(system, option) for system in book.systems)
    return sorted(bases, key=lambda system: ORDER.index(system.mode))


def _groups(book: ScoreBook, option: str) -> dict[System, list[System]]:
    """Systems that differ in one option only; groups of at least two."""
    groups: dict[System, list[System]] = {base: [] for base in _without(book, option)}
    for system in book.systems:
        groups[_base(system, option)].append(system)
    return {base: group for base, group in groups.items() if len(group) > 1}


def _find(group: Iterable[System], option: str, value: object) -> System | None:
    return next((system for system in group if getattr(system, option) == value), None)


def _ordered(values: Iterable[T]) -> list[T]:
    """Numbers first and by size, then words."""
    return sorted(values, key=_place)


def _place(value: object) -> tuple[bool, float, str]:
    return (False, float(value), "") if isinstance(value, int) else (True, 0.0, str(value))
