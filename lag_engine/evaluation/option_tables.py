"""Tables of systems that differ in one option: controls, K, scores, retrievers, library sizes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from lag_engine.evaluation.score_book import ScoreBook
from lag_engine.evaluation.statistics import Interval
from lag_engine.evaluation.systems import Source, System
from lag_engine.evaluation.table import NOTHING, Cell, Table, percent

T = TypeVar("T")

ORDER = (
    *("base", "arrow", "spectr", "lag", "rag", "prag", "dyprag", "polyprag"),
    *("rag+lag", "prag+lag", "dyprag+lag", "polyprag+lag", "rag+prag+lag", "oracle"),
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
    """Mean scores by the number of documents to choose from."""
    found = sizes(books)
    counts = sorted({count for series in found.values() for count in series})
    if len(counts) < 2:
        return None
    rows = tuple(
        (Cell(name), *(percent(series[n]) if n in series else NOTHING for n in counts))
        for name, series in found.items()
    )
    note = (
        "Mean score by how many knowledge adapters could be chosen, or, where a retriever finds "
        "the document, by how many documents it searched."
    )
    return Table("Library size", note, ("system", *(f"{n:,}" for n in counts)), rows)


def sizes(books: Sequence[ScoreBook]) -> dict[str, dict[int, Interval]]:
    """For each system that chooses or retrieves, its mean by the number of documents."""
    found: dict[str, dict[int, Interval]] = {}
    for book in books:
        kinds = (book.results.about["library"] or {}).get("kinds", {})
        whole = kinds.get("knowledge", {}).get("adapters", 0)
        for system in book.systems:
            if system.retrieves or (system.routes_knowledge and system.document == "right"):
                searched = whole if system.routes_knowledge else book.results.about["documents"]
                series = found.setdefault(_base_name(system, "library_size"), {})
                series[system.library_size or searched] = book.mean(system)
    return {name: dict(sorted(series.items())) for name, series in found.items() if len(series) > 1}


def _cell(book: ScoreBook, system: System | None) -> Cell:
    answered = system is not None and system in book.results.systems
    return percent(book.mean(system)) if system is not None and answered else NOTHING


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
