"""`lag evaluate`: the seeds' comparisons on the tiny world, on KILT files or on one's own."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from lag_engine.cli.console import err, out
from lag_engine.errors import EvaluationError

if TYPE_CHECKING:
    from lag_engine.evaluation import AdapterMaker, Results, Retriever, Settings, Suite, System
    from lag_engine.model.engine import LAGEngine

PRACTICAL = (
    *("base", "lag", "rag", "rag+lag", "prag", "prag+lag"),
    *("polyprag", "polyprag+lag", "dyprag", "dyprag+lag", "rag+prag+lag"),
)
"""The modes that need no gold: what a user can choose from."""

QUICK_SECONDS, QUICK_BATCH = 50.0, 8


class Control(StrEnum):
    """Whose document a question gets instead of the retrieved one."""

    right = "right"
    wrong = "wrong"
    none = "none"


class ScoreName(StrEnum):
    """What decides among candidates."""

    projection = "projection"
    norm = "norm"
    relative = "relative"


class RetrieverName(StrEnum):
    """Who finds documents."""

    bm25 = "bm25"
    dense = "dense"
    hybrid = "hybrid"


Files = Annotated[
    list[Path] | None,
    typer.Argument(help="KILT files or files of your own.  [default: the tiny world]"),
]
Quick = Annotated[
    bool, typer.Option("--quick", help="Which mode is best on my data, in about a minute.")
]
Guess = Annotated[
    Path | None, typer.Option(help="Only score this file of predictions against a KILT file.")
]
Report = Annotated[
    list[Path] | None, typer.Option("--report", help="Only report this results file; repeatable.")
]
Documents = Annotated[
    Path | None, typer.Option(help='Lines {"id" or "wikipedia_id", "text", "title", "adapter"}.')
]
DataSetName = Annotated[
    str | None, typer.Option("--data-set", help="Of KILT.  [default: by the file's name]")
]
Model = Annotated[str, typer.Option(help="'lag-tiny', a model folder or a hub id.")]
Library = Annotated[Path | None, typer.Option(help="The adapter library; lag-tiny brings its own.")]
Translator = Annotated[Path | None, typer.Option(help="DyPRAG's, made by training; a folder.")]
Embedder = Annotated[
    str | None,
    typer.Option(help="A sentence-transformers model for dense.  [default: lag-tiny's]"),
]
Modes = Annotated[
    list[str] | None,
    typer.Option("--mode", help="Repeatable.  [default: all that can run]"),
]
Ks = Annotated[
    list[str] | None, typer.Option("--retrieve-k", help="A number or 'adaptive'; repeatable.")
]
Scores = Annotated[list[ScoreName] | None, typer.Option("--score", help="Repeatable.")]
Retrievers = Annotated[list[RetrieverName] | None, typer.Option("--retriever", help="Repeatable.")]
Controls = Annotated[list[Control] | None, typer.Option("--control", help="Repeatable.")]
Sizes = Annotated[
    list[int] | None,
    typer.Option("--library-size", help="Knowledge adapters to choose from; repeatable."),
]
Everything = Annotated[
    bool, typer.Option("--every-combination", help="Of options; else one is varied at a time.")
]
PerSet = Annotated[
    int | None, typer.Option("--per-data-set", min=1, help="At most so many questions of each.")
]
MaxNewTokens = Annotated[int, typer.Option(min=1)]
Stop = Annotated[list[str] | None, typer.Option(help="A string that ends answers; repeatable.")]
DocumentTokens = Annotated[
    int | None, typer.Option(min=1, help="Documents in prompts are cut after so many tokens.")
]
Seed = Annotated[int, typer.Option(help="Of questions, wrong documents and smaller libraries.")]
Batch = Annotated[int, typer.Option(min=1, help="Questions decoded together.")]
NoTraces = Annotated[bool, typer.Option("--no-traces", help="Skip routing accuracy; faster.")]
Output = Annotated[
    Path, typer.Option(help="A folder for results and report; goes on where it was cut off.")
]
Device = Annotated[str, typer.Option(help="'auto', 'cpu', 'cuda:0', ...")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bar.")]


def evaluate(
    files: Files = None,
    quick: Quick = False,
    guess: Guess = None,
    report: Report = None,
    documents: Documents = None,
    data_set: DataSetName = None,
    model: Model = "lag-tiny",
    library: Library = None,
    translator: Translator = None,
    embedder: Embedder = None,
    mode: Modes = None,
    retrieve_k: Ks = None,
    score: Scores = None,
    retriever: Retrievers = None,
    control: Controls = None,
    library_size: Sizes = None,
    every_combination: Everything = False,
    per_data_set: PerSet = None,
    max_new_tokens: MaxNewTokens = 32,
    stop: Stop = None,
    document_tokens: DocumentTokens = None,
    seed: Seed = 0,
    batch: Batch = 50,
    no_traces: NoTraces = False,
    output: Output = Path("lag-evaluation"),
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Compare modes on questions with known answers: scores, intervals, controls, a report.

    Lines of a file of your own: {"question", "answer" or "answers"} and, if you have them,
    "document" (its text) or "document_id", "task", "metric" (em, f1, accuracy, rougel) and
    "task_adapter". Further lines {"id", "text", "title", "adapter"} are documents.
    """
    if guess is not None:
        _print_official(files or [], guess)
        return
    if report:
        _write(report, output)
        return
    from lag_engine.cli.evaluate_sources import read_suite, tiny_suite
    from lag_engine.evaluation import Settings
    from lag_engine.model.engine import LAGEngine

    suite = (
        read_suite(files, documents=documents, data_set=data_set) if files else tiny_suite()
    ).sample(per_data_set or sys.maxsize, seed=seed)
    settings = Settings(
        max_new_tokens=max_new_tokens,
        stop=tuple(stop or ()),
        document_tokens=document_tokens,
        seed=seed,
        is_traced=not (no_traces or quick),
    )
    options = {
        "documents": _choices(control),
        "retrieve_ks": [_candidates(text) for text in retrieve_k or ()],
        "scores": _choices(score),
        "retrievers": _choices(retriever),
        "library_sizes": list(library_size or ()),
    }
    with LAGEngine.from_pretrained(model, library=library, device=device) as engine:
        if engine.library is not None:
            suite = suite.with_library(engine.library.list())
        run = _Run(engine, suite, settings, translator=translator, embedder=embedder)
        if quick:
            run.quick(mode, progress=not quiet)
            return
        systems = run.systems(mode, options, every_combination=every_combination)
        run.full(systems, output, batch=batch, progress=not quiet)
    _write([output / "results.jsonl"], output, command=_command())


class _Run:
    """An engine and a suite, ready to be compared."""

    def __init__(
        self,
        engine: LAGEngine,
        suite: Suite,
        settings: Settings,
        *,
        translator: Path | None,
        embedder: str | None,
    ) -> None:
        self._engine = engine
        self._suite = suite
        self._settings = settings
        self._embedder = embedder
        self._maker = _maker(engine, translator)

    def systems(
        self, modes: Sequence[str] | None, options: dict[str, Any], *, every_combination: bool
    ) -> list[System]:
        """The systems to run; what cannot run is told, and an error where it was asked for."""
        from lag_engine.evaluation import grid, one_at_a_time
        from lag_engine.routing import MODES

        asked = tuple(modes or MODES)
        if every_combination:
            given = {name: values for name, values in options.items() if values}
            if "documents" in given:
                given["documents"] = ["retrieved", *given["documents"]]
            return self._able(grid(asked, **given), is_asked_for=bool(modes))
        return self._able(one_at_a_time(asked, **options), is_asked_for=bool(modes))

    def full(self, systems: Sequence[System], output: Path, *, batch: int, progress: bool) -> None:
        """Runs all systems into the output's results file."""
        self._experiment(systems).run(output / "results.jsonl", batch=batch, progress=progress)

    def quick(self, modes: Sequence[str] | None, *, progress: bool) -> None:
        """Asks as much as fits into the time, and says which mode is best."""
        from lag_engine.evaluation import System, find_best
        from lag_engine.evaluation.score_book import ScoreBook

        systems = [System(mode) for mode in modes or PRACTICAL]
        systems = self._able(systems, is_asked_for=bool(modes))
        with TemporaryDirectory() as folder:
            results = self._experiment(systems, is_shuffled=True).run(
                Path(folder) / "quick.jsonl",
                batch=QUICK_BATCH,
                progress=progress,
                seconds=QUICK_SECONDS,
            )
        _print_scores(results)
        for line in find_best(ScoreBook(results)).lines():
            out.print(line, highlight=False, markup=False)

    def _experiment(self, systems: Sequence[System], *, is_shuffled: bool = False) -> Any:
        from lag_engine.evaluation import Experiment

        return Experiment(
            self._engine,
            self._suite.shuffled(self._settings.seed) if is_shuffled else self._suite,
            systems,
            settings=self._settings,
            retrievers=self._retrievers({s.retriever for s in systems if s.retrieves}),
            maker=self._maker,
        )

    def _able(self, systems: Sequence[System], *, is_asked_for: bool) -> list[System]:
        from lag_engine.evaluation import obstacle

        able, told = [], set()
        for system in systems:
            reason = obstacle(
                system, self._suite, self._engine, makes_adapters=self._maker is not None
            )
            if not reason:
                able.append(system)
            elif is_asked_for:
                raise EvaluationError(
                    f"Expected {system.name!r} to be able to answer {self._suite.name}",
                    f"found that {reason}",
                    "supply what is missing, or leave it out",
                )
            elif (system.mode, reason) not in told:
                told.add((system.mode, reason))
                err.print(f"Left out: {system.mode}, as {reason}.", highlight=False)
        return able

    def _retrievers(self, names: set[str]) -> list[Retriever]:
        from lag_engine.evaluation import BM25Retriever, DenseRetriever, HybridRetriever

        texts = [f"{d.title}\n{d.text}".strip() for d in self._suite.documents]
        made: dict[str, Retriever] = {}
        if names & {"bm25", "hybrid"}:
            made["bm25"] = BM25Retriever(texts)
        if names & {"dense", "hybrid"}:
            made["dense"] = DenseRetriever(texts, _embed(self._embedder))
        if "hybrid" in names:
            made["hybrid"] = HybridRetriever([made["bm25"], made["dense"]])
        return [made[name] for name in sorted(names)]


def _maker(engine: LAGEngine, folder: Path | None) -> AdapterMaker | None:
    if folder is None:
        return None
    from lag_engine.documents import DyPRAG, load_translator

    return DyPRAG(engine, engine.lend(lambda model: load_translator(folder, model)))


def _embed(name: str | None) -> Any:
    from sentence_transformers import SentenceTransformer

    from lag_engine.tiny import embedder_path

    model = SentenceTransformer(name or str(embedder_path()))
    return lambda texts: model.encode(list(texts), show_progress_bar=False)


def _choices(values: Sequence[StrEnum] | None) -> list[str]:
    return [str(value) for value in values or ()]


def _candidates(text: str) -> int | Literal["adaptive"]:
    if text == "adaptive":
        return "adaptive"
    if not text.isdigit() or int(text) < 1:
        raise EvaluationError(
            "Expected --retrieve-k to be a number of at least 1, or 'adaptive'",
            f"found {text!r}",
            "correct it",
        )
    return int(text)


def _print_official(files: Sequence[Path], guess: Path) -> None:
    """Prints what KILT's own script prints."""
    from lag_engine.evaluation import evaluate as official
    from lag_engine.evaluation import read_records

    if len(files) != 1:
        raise EvaluationError(
            "Expected one KILT file with the gold answers beside --guess",
            f"found {len(files)}",
            "name it: lag evaluate GOLD --guess GUESS",
        )
    out.print_json(data=official(read_records(files[0]), read_records(guess)))


def _print_scores(results: Results) -> None:
    from rich.table import Table

    from lag_engine.evaluation.score_book import ScoreBook

    book = ScoreBook(results)
    table = Table("mode", title="Mean score, %")
    for heading in ("score", "95 %", "ms a question"):
        table.add_column(heading, justify="right")
    means = {system: book.mean(system) for system in book.systems}
    for system, mean in sorted(means.items(), key=lambda item: -item[1].score):
        table.add_row(
            system.name,
            f"{100 * mean.score:.1f}",
            f"{100 * mean.low:.1f}–{100 * mean.high:.1f}",
            f"{1000 * book.seconds(system):.0f}",
        )
    out.print(table)


def _write(paths: Sequence[Path], output: Path, *, command: str = "") -> None:
    from lag_engine.evaluation import Results, write_predictions, write_report

    results = [Results.read(path) for path in paths]
    _print_scores(results[0])
    write_predictions(results[0], output / "predictions")
    out.print(f"Report: {write_report(results, output, command=command)}", highlight=False)


def _command() -> str:
    return shlex.join(["lag", *sys.argv[1:]])
