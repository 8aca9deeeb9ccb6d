"""Exact match of every way to encode documents, on the right document and under its controls.

Run it with ``python -m lag_engine.tiny.encoder_table --json FILE --markdown FILE``.

Each of the documents, none of which the model knows, has four facts. Its passage has a pair for
each in one wording; the question is asked in another, and the answer must be the base model's own
sentence with the right value. So the base model knows how to answer, and only not what.

- right: under the question's own document; wrong: under another of its kind;
- shuffled: under its own, encoded with answers that name another document's values;
- one adapter: a single one, of the size of what the encoder shares, trained on all pairs.

Seconds are CPU seconds of one thread. Intervals of 95 % are by bootstrap over documents.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from lag_engine.documents import DyPRAGSettings, Passage, PolyPRAGSettings, PRAGSettings
from lag_engine.evaluation.account import processor
from lag_engine.evaluation.statistics import Interval, mean_interval
from lag_engine.model.engine import LAGEngine
from lag_engine.tiny.encoder_cases import (
    Case,
    cases_of,
    other_cases,
    shuffled,
    united,
    wrong_of,
)
from lag_engine.tiny.encoder_trials import (
    LATENT_SETTINGS,
    PAPER_SETTINGS,
    PRAG_SETTINGS,
    TRANSLATOR_SETTINGS,
    Encoded,
    answer,
    encode_polyprag,
    encode_prag,
    fresh_engine,
    generated,
    train_dyprag,
)

CONTROLS = ("right", "wrong", "shuffled", "one adapter")
COUNTED = ("documents", "questions")
DOCUMENTS, TRANSLATOR_DOCUMENTS = 32, 120
FEW_LATENTS = replace(LATENT_SETTINGS, n_latents=6, top_k=3)
TAUGHT_ON_OTHERS = replace(TRANSLATOR_SETTINGS, epochs=10)
"""As many steps as for the few documents."""
TOGETHER_ROWS = 8
"""Sequences in a step of the one adapter, which has many; it sees each as often as the others."""


@dataclass
class Row:
    """One method.

    Attributes:
        name: Of the method.
        exact_match: Score with its interval, by control.
        n_bytes: Stored for a document, its share of what all have in common included.
        shared_bytes: Of what all have in common.
        encode_seconds: For a document.
        question_seconds: For a question.
    """

    name: str
    exact_match: dict[str, Interval]
    n_bytes: float = 0.0
    shared_bytes: int = 0
    encode_seconds: float = 0.0
    question_seconds: float = 0.0

    def told(self) -> dict[str, Any]:
        """The row as JSON takes it."""
        scores = {control: score._asdict() for control, score in self.exact_match.items()}
        return {**asdict(self), "exact_match": scores}

    def cells(self) -> list[str]:
        """The row of a table."""
        scores = [_score(self.exact_match.get(control)) for control in CONTROLS]
        return [
            self.name,
            *scores,
            f"{self.n_bytes:,.0f}",
            f"{self.encode_seconds:.3f}",
            f"{1000 * self.question_seconds:.1f}",
        ]


HEADINGS = (
    *("method", *(f"{c}, %" for c in CONTROLS)),
    *("bytes a document", "s a document", "ms a question"),
)


class Table:
    """Measures methods on some documents.

    Args:
        cases: The documents.
        tell: Called with each row.
    """

    def __init__(self, cases: Sequence[Case], tell: Callable[[Row], None]) -> None:
        self.rows: list[Row] = []
        self.cases = cases
        self._passages = [case.passage for case in cases]
        self._tell = tell

    def base(self) -> None:
        """The model alone."""
        with fresh_engine() as engine:
            engine.generate("warm", plan="base", max_new_tokens=1)
            found = answer(engine, self.cases, "base", None)
        row = Row(
            "no adapter", {"right": mean_interval(found.scores)}, question_seconds=found.seconds
        )
        self._add(row)

    def prag(self, name: str, settings: PRAGSettings, *, has_controls: bool = True) -> None:
        """An adapter for each passage."""

        def encode(engine: LAGEngine, passages: Sequence[Passage]) -> Encoded:
            return encode_prag(engine, passages, settings)

        self._stored(name, encode, one_of=settings if has_controls else None)

    def polyprag(self, name: str, settings: PolyPRAGSettings) -> None:
        """A mixture for each passage; the one adapter has the rank of all latent ones together."""
        rank = settings.n_latents * settings.rank
        one = replace(PRAG_SETTINGS, rank=rank, alpha=rank * settings.scaling)

        def encode(engine: LAGEngine, passages: Sequence[Passage]) -> Encoded:
            return encode_polyprag(engine, passages, settings)

        self._stored(name, encode, one_of=one)

    def dyprag(
        self,
        name: str,
        taught: Sequence[Passage],
        settings: DyPRAGSettings,
        *,
        has_controls: bool,
    ) -> None:
        """Adapters made by a translator that was taught on some passages."""
        with fresh_engine() as engine:
            translator, seconds = train_dyprag(engine, taught, settings)
            with generated(engine, translator, self._passages) as made:
                row = self._right_and_wrong(engine, name, made)
                row.encode_seconds = seconds / len(taught)
                row.question_seconds += made.seconds
        if has_controls:
            with fresh_engine() as engine:
                translator, _ = train_dyprag(engine, shuffled(self.cases), settings)
                with generated(engine, translator, self._passages) as made:
                    row.exact_match["shuffled"] = self._score(engine, made.mode, made.names)
        self._add(row)

    def _stored(
        self,
        name: str,
        encode: Callable[[LAGEngine, Sequence[Passage]], Encoded],
        *,
        one_of: PRAGSettings | None,
    ) -> None:
        with fresh_engine() as engine:
            row = self._right_and_wrong(engine, name, encode(engine, self._passages))
        if one_of is not None:
            with fresh_engine() as engine:
                made = encode(engine, shuffled(self.cases))
                row.exact_match["shuffled"] = self._score(engine, made.mode, made.names)
            with fresh_engine() as engine:
                together = replace(one_of, batch_size=TOGETHER_ROWS)
                one = encode_prag(engine, [united(self.cases)], together).names
                names = one * len(self.cases)
                row.exact_match["one adapter"] = self._score(engine, "prag", names)
        self._add(row)

    def _right_and_wrong(self, engine: LAGEngine, name: str, made: Encoded) -> Row:
        right = answer(engine, self.cases, made.mode, made.names)
        others = [made.names[place] for place in wrong_of([case.kind for case in self.cases])]
        scores = {
            "right": mean_interval(right.scores),
            "wrong": self._score(engine, made.mode, others),
        }
        return Row(name, scores, made.n_bytes, made.shared_bytes, made.seconds, right.seconds)

    def _score(self, engine: LAGEngine, mode: str, names: Sequence[str]) -> Interval:
        return mean_interval(answer(engine, self.cases, mode, names).scores)

    def _add(self, row: Row) -> None:
        self.rows.append(row)
        self._tell(row)


def methods(table: Table) -> dict[str, Callable[[], None]]:
    """What can be measured, by name."""
    own = [case.passage for case in table.cases]
    others = [case.passage for case in other_cases(TRANSLATOR_DOCUMENTS)]
    of_these = "DyPRAG, taught on these"
    return {
        "base": table.base,
        "prag-paper": lambda: table.prag(
            "PRAG, the paper's sequences", PAPER_SETTINGS, has_controls=False
        ),
        "prag": lambda: table.prag("PRAG, questions alone", PRAG_SETTINGS),
        "polyprag-20": lambda: table.polyprag("Poly-PRAG, 20 latent adapters", LATENT_SETTINGS),
        "polyprag-6": lambda: table.polyprag("Poly-PRAG, 6 latent adapters", FEW_LATENTS),
        "dyprag": lambda: table.dyprag(of_these, own, TRANSLATOR_SETTINGS, has_controls=True),
        "dyprag-others": lambda: table.dyprag(
            "DyPRAG, taught on others", others, TAUGHT_ON_OTHERS, has_controls=False
        ),
    }


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a table."""
    lines = [HEADINGS, ["---"] + ["--:"] * (len(HEADINGS) - 1), *(row.cells() for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def page(about: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """The rows as a page that says what was measured, and how."""
    title, text = (__doc__ or "").replace("``", "`").split("\n\n", 1)
    facts = ", ".join(f"{value} {name}" for name, value in about.items() if name in COUNTED)
    where = f"{facts} of the {about['split']} split; {about['machine']}, torch {about['torch']}."
    return f"# {title.rstrip('.')}\n\n{text.strip()}\n\n{where}\n\n{markdown(rows)}"


def _score(found: Interval | None) -> str:
    if found is None:
        return "–"
    return f"{100 * found.score:.1f} ({100 * found.low:.1f}–{100 * found.high:.1f})"


def main() -> None:
    """Measures and prints the table, and writes what files are asked for after each row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--split", choices=("dev", "eval"), default="eval")
    parser.add_argument("--documents", type=int, default=DOCUMENTS)
    parser.add_argument(
        "--method",
        action="append",
        metavar="NAME",
        help="base, prag-paper, prag, polyprag-20, polyprag-6, dyprag, dyprag-others; repeatable",
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cases = cases_of(arguments.split, arguments.documents)
    console = Console(width=150, highlight=False)
    about: dict[str, Any] = {
        "split": arguments.split,
        "documents": len(cases),
        "questions": sum(len(case.questions) for case in cases),
        "machine": processor(),
        "torch": torch.__version__,
    }

    def tell(row: Row) -> None:
        console.print(" | ".join(row.cells()))
        if arguments.json:
            told = {**about, "rows": [row.told() for row in table.rows]}
            arguments.json.write_text(json.dumps(told, indent=1) + "\n")
        if arguments.markdown:
            arguments.markdown.write_text(page(about, table.rows))

    table = Table(cases, tell)
    for name, run in methods(table).items():
        if not arguments.method or name in arguments.method:
            run()


if __name__ == "__main__":
    main()
