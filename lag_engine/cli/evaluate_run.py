"""What `lag evaluate` does with an engine and questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from lag_engine.cli.console import err, out
from lag_engine.cli.evaluate_print import print_examples, print_scores
from lag_engine.errors import EvaluationError

if TYPE_CHECKING:
    from lag_engine.evaluation import (
        AdapterMaker,
        Experiment,
        Retriever,
        Settings,
        Suite,
        System,
    )
    from lag_engine.model.engine import LAGEngine

PRACTICAL = (
    *("base", "lag", "rag", "rag+lag", "prag", "prag+lag"),
    *("polyprag", "polyprag+lag", "dyprag", "dyprag+lag", "rag+prag+lag"),
)
"""The modes that need no gold: what a user can choose from."""

QUICK_SECONDS, QUICK_BATCH = 50.0, 8


class EvaluationRun:
    """An engine and a suite, ready to be compared."""

    def __init__(
        self,
        engine: LAGEngine,
        suite: Suite,
        settings: Settings,
        *,
        translator: Path | None = None,
        encodings: Mapping[str, Path] | None = None,
        embedder: str | None = None,
    ) -> None:
        self._engine = engine
        self._suite = suite
        self._settings = settings
        self._embedder = embedder
        self._makers = _makers(engine, translator, encodings or {})

    def systems(
        self,
        modes: Sequence[str] | None,
        controls: Mapping[str, Sequence[Any]],
        options: Mapping[str, Sequence[Any]],
        *,
        varied: Sequence[str] | None,
        every_combination: bool,
    ) -> list[System]:
        """The systems to run; what cannot run is told, and an error where it was asked for.

        Args:
            modes: asked for; None for all that can run.
            controls: run on every mode.
            options: run on the varied modes.
            varied: None for all.
            every_combination: of controls and options.
        """
        from lag_engine.evaluation import grid, one_at_a_time
        from lag_engine.routing import MODES

        asked = self._basic(tuple(modes or MODES), is_asked_for=bool(modes))
        if unknown := [mode for mode in varied or () if mode not in MODES]:
            raise EvaluationError(
                f"Expected --vary to name modes: {', '.join(MODES)}",
                f"found {unknown[0]!r}",
                "correct it",
            )
        if every_combination:
            given = {name: values for name, values in {**controls, **options}.items() if values}
            if "document" in given:
                given["document"] = ["retrieved", *given["document"]]
            return self._able(grid(asked, **given), is_asked_for=bool(modes))
        chosen = asked if varied is None else [mode for mode in asked if mode in varied]
        systems = [*one_at_a_time(asked, **controls), *one_at_a_time(chosen, **options)]
        return self._able(list(dict.fromkeys(systems)), is_asked_for=bool(modes))

    def _basic(self, modes: Sequence[str], *, is_asked_for: bool) -> list[str]:
        """The modes that can run as usual: no control makes sense of the others."""
        from lag_engine.evaluation import grid

        return [system.mode for system in self._able(grid(modes), is_asked_for=is_asked_for)]

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
        print_scores(results)
        print_examples(results, self._suite)
        for line in find_best(ScoreBook(results)).lines():
            out.print(line, highlight=False, markup=False)

    def _experiment(self, systems: Sequence[System], *, is_shuffled: bool = False) -> Experiment:
        from lag_engine.evaluation import Experiment

        return Experiment(
            self._engine,
            self._suite.shuffled(self._settings.seed) if is_shuffled else self._suite,
            systems,
            settings=self._settings,
            retrievers=self._retrievers({s.retriever for s in systems if s.retrieves}),
            makers=self._makers,
        )

    def _able(self, systems: Sequence[System], *, is_asked_for: bool) -> list[System]:
        from lag_engine.evaluation import obstacle

        able: list[System] = []
        left_out: dict[str, list[str]] = {}
        for system in systems:
            reason = obstacle(system, self._suite, self._engine, made=self._makers)
            if not reason:
                able.append(system)
            elif is_asked_for:
                raise EvaluationError(
                    f"Expected {system.name!r} to be able to answer {self._suite.name}",
                    f"found that {reason}",
                    "supply what is missing, or leave it out",
                )
            else:
                left_out.setdefault(reason, []).append(system.mode)
        for reason, modes in left_out.items():
            names = ", ".join(dict.fromkeys(modes))
            err.print(f"Left out: {names}, as {reason}.", highlight=False, soft_wrap=True)
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


def _makers(
    engine: LAGEngine, translator: Path | None, libraries: Mapping[str, Path]
) -> dict[str, AdapterMaker]:
    """Who supplies adapters that are not in the engine's library, by encoding."""
    from lag_engine.documents import DyPRAG
    from lag_engine.evaluation import BorrowedAdapters

    makers: dict[str, AdapterMaker] = {
        name: BorrowedAdapters(engine, path) for name, path in libraries.items()
    }
    has_own = engine.library is not None and (engine.library.path / DyPRAG.FOLDER).is_dir()
    if translator is not None or has_own:
        makers["dyprag"] = DyPRAG.from_engine(engine, translator)
    return makers


def _embed(name: str | None) -> Any:
    from sentence_transformers import SentenceTransformer

    from lag_engine.tiny import embedder_path

    model = SentenceTransformer(name or str(embedder_path()))
    return lambda texts: model.encode(list(texts), show_progress_bar=False)
