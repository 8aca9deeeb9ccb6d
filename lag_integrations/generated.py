"""Plans over adapters that are made of retrieved passages while a question is asked (DyPRAG)."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lag_engine import PlanError

if TYPE_CHECKING:
    from lag_engine import DyPRAG, LAGEngine

_Held = tuple[tuple[Path | None, int | None], "DyPRAG"]
"""A translator's folder, when it was written, and the translator."""

_translators: dict[LAGEngine, _Held] = {}
_lock = threading.Lock()


@dataclass(frozen=True)
class PassagePlan:
    """What a request applies whose adapters do not exist yet.

    Attributes:
        mode: one that makes adapters.
        passages: `{"id", "text", "title"}`, what the adapters are made of.
        routing: options of the plan.
        translator: the folder of what makes them; None for the library's own.
    """

    mode: str
    passages: tuple[Mapping[str, str], ...]
    routing: Mapping[str, Any]
    translator: str | None

    @classmethod
    def of(
        cls, mode: str, passages: Any, *, routing: Mapping[str, Any], translator: str | None
    ) -> PassagePlan:
        """The plan of a mode over a request's `adapters`, which here are passages.

        Raises:
            PlanError: they are none.
        """
        given: Any = passages.get("knowledge") if isinstance(passages, Mapping) else passages
        if not _are_passages(given):
            raise PlanError(
                f"Expected passages to make adapters of in mode {mode!r}",
                f"found {given!r}",
                'Pass adapters=[{"id": ..., "text": ...}]; over retrieved documents, the '
                "parametric documents chain or synthesizer does",
            )
        return cls(mode, tuple(given), dict(routing), translator)


@contextmanager
def ready(engine: LAGEngine, options: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The options of a request with its plan whole; adapters that it needs live in the context.

    Raises:
        LagError: there is no translator for the engine's model, or a passage is too long to read.
    """
    plan = options["plan"]
    if not isinstance(plan, PassagePlan):
        yield dict(options)
        return
    from lag_engine import Passage

    passages = [Passage(p["id"], p["text"], p.get("title", "")) for p in plan.passages]
    with translator_of(engine, plan.translator).generated(passages) as names:
        made = engine.plan(plan.mode, adapters=names, **plan.routing)
        yield {**options, "plan": made}


def translator_of(engine: LAGEngine, folder: str | None) -> DyPRAG:
    """The engine's translator, read when it is first used or was trained anew.

    Raises:
        LagError: there is none, or it was made for another model.
    """
    from lag_engine import DyPRAG

    path = _path(folder, None if engine.library is None else engine.library.path)
    key = (path, _written(path))
    with _lock:
        for closed in [other for other in _translators if other.is_closed]:
            del _translators[closed]
        held = _translators.get(engine)
        if held is None or held[0] != key:
            held = _translators[engine] = (key, DyPRAG.from_engine(engine, path))
    return held[1]


def translator_written(folder: str | None, library: str | None) -> int | None:
    """Tells one state of a translator from another; None if there is none. Loads nothing."""
    return _written(_path(folder, library))


def _path(folder: str | None, library: str | Path | None) -> Path | None:
    from lag_engine import DyPRAG

    if folder is not None:
        return Path(folder)
    return None if library is None else Path(library) / DyPRAG.FOLDER


def _written(path: Path | None) -> int | None:
    """When the translator of a folder was written, in nanoseconds."""
    config = None if path is None else path / "translator.json"
    return config.stat().st_mtime_ns if config is not None and config.exists() else None


def _are_passages(given: Any) -> bool:
    if isinstance(given, str) or not isinstance(given, Sequence) or not given:
        return False
    return all(isinstance(passage, Mapping) and {"id", "text"} <= set(passage) for passage in given)
