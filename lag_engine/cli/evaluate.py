"""`lag evaluate`: the seeds' comparisons on the tiny world, on KILT files or on one's own."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lag_engine.cli import evaluate_options as option
from lag_engine.cli.console import out
from lag_engine.cli.evaluate_print import print_scores
from lag_engine.cli.evaluate_run import EvaluationRun
from lag_engine.errors import EvaluationError

if TYPE_CHECKING:
    from lag_engine.evaluation import Suite


def evaluate(
    files: option.Files = None,
    quick: option.Quick = False,
    guess: option.Guess = None,
    report: option.Report = None,
    documents: option.Documents = None,
    data_set: option.DataSetName = None,
    model: option.Model = "lag-tiny",
    library: option.Library = None,
    translator: option.Translator = None,
    embedder: option.Embedder = None,
    mode: option.Modes = None,
    vary: option.Varied = None,
    retrieve_k: option.Ks = None,
    score: option.Scores = None,
    retriever: option.Retrievers = None,
    n_documents: option.Counts = None,
    control: option.Controls = None,
    encoding: option.Encodings = None,
    knowledge_routed: option.KnowledgeRouted = False,
    library_size: option.Sizes = None,
    every_combination: option.Everything = False,
    per_data_set: option.PerSet = None,
    max_new_tokens: option.MaxNewTokens = 32,
    stop: option.Stop = None,
    document_tokens: option.DocumentTokens = None,
    seed: option.Seed = 0,
    batch: option.Batch = 25,
    no_traces: option.NoTraces = False,
    output: option.Output = Path("lag-evaluation"),
    device: option.Device = "auto",
    quiet: option.Quiet = False,
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
    from lag_engine.evaluation import Settings
    from lag_engine.model.engine import LAGEngine

    suite = _suite(files, documents, data_set).sample(per_data_set or sys.maxsize, seed=seed)
    settings = Settings(
        max_new_tokens=max_new_tokens,
        stop=tuple(stop or ()),
        document_tokens=document_tokens,
        seed=seed,
        is_traced=not (no_traces or quick),
    )
    libraries = dict(_encoding(text) for text in encoding or ())
    controls: dict[str, Sequence[Any]] = {
        "document": _choices(control),
        "encoding": list(libraries),
    }
    options: dict[str, Sequence[Any]] = {
        "retrieve_k": [_candidates(text) for text in retrieve_k or ()],
        "score": _choices(score),
        "retriever": _choices(retriever),
        "n_documents": n_documents or (),
        "knowledge_routed": [False, True] if knowledge_routed else (),
        "library_size": library_size or (),
    }
    with LAGEngine.from_pretrained(model, library=library, device=device) as engine:
        if engine.library is not None:
            suite = suite.with_library(engine.library.list())
        run = EvaluationRun(
            engine,
            suite,
            settings,
            translator=translator,
            encodings={name: path for name, path in libraries.items() if path is not None},
            embedder=embedder,
        )
        if quick:
            run.quick(mode, progress=not quiet)
            return
        systems = run.systems(
            mode, controls, options, varied=vary, every_combination=every_combination
        )
        run.full(systems, output, batch=batch, progress=not quiet)
    _write([output / "results.jsonl"], output, command=_command())


def _suite(files: Sequence[Path] | None, documents: Path | None, data_set: str | None) -> Suite:
    if files:
        from lag_engine.cli.evaluate_sources import read_suite

        return read_suite(files, documents=documents, data_set=data_set)
    from lag_engine.tiny.suite import tiny_suite

    return tiny_suite()


def _encoding(text: str) -> tuple[str, Path | None]:
    """NAME or NAME=LIBRARY."""
    name, _, path = text.partition("=")
    return name, Path(path) if path else None


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


def _write(paths: Sequence[Path], output: Path, *, command: str = "") -> None:
    from lag_engine.evaluation import Results, write_predictions, write_report

    results = [Results.read(path) for path in paths]
    print_scores(results[0])
    write_predictions(results[0], output / "predictions")
    out.print(f"Report: {write_report(results, output, command=command)}", highlight=False)


def _command() -> str:
    """What was typed: `lag`, or a module that runs it."""
    module = sys.modules["__main__"].__spec__
    program = ["lag"] if module is None else ["python", "-m", module.name]
    return shlex.join([*program, *sys.argv[1:]])
