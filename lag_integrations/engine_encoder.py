"""Documents become adapters on the very model that answers, between its requests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from lag_engine import PRAG, Passage

if TYPE_CHECKING:
    from lag_engine import AdapterInfo, AdapterLibrary, LAGEngine, PRAGSettings

R = TypeVar("R")


class EngineEncoder:
    """PRAG on a running engine's model; its requests wait meanwhile, and see the new adapters.

    Args:
        engine: of a framework's model object, `llm.engine`.
        library: the one that the engine answers with, open for writing; often that is a second
            opening of the same folder, since engines open theirs read-only.
        settings: by default the paper's.
        augment: gives passages questions and rewrites before they are trained.
        progress: shows a bar on standard error.
    """

    def __init__(
        self,
        engine: LAGEngine,
        library: AdapterLibrary,
        *,
        settings: PRAGSettings | None = None,
        augment: Callable[[Passage], Passage] | None = None,
        progress: bool = True,
    ) -> None:
        self._engine = engine
        self._library = library
        self._settings = settings
        self._augment = augment
        self._progress = progress

    def encode(self, passages: Sequence[Passage]) -> list[AdapterInfo]:
        """Each passage's adapter, in the order of the passages; current ones are left alone.

        Raises:
            LagError: as `PRAG` and `PRAG.encode` do.
        """
        return self._with_prag(lambda prag: prag.encode(passages))

    def revision(self, passage: Passage) -> str:
        """What the passage's adapter depends on, as a short hash."""
        return self._with_prag(lambda prag: prag.revision(passage))

    def _with_prag(self, work: Callable[[PRAG], R]) -> R:
        return self._engine.lend(
            lambda model: work(
                PRAG(
                    model,
                    self._engine.tokenizer,
                    self._library,
                    settings=self._settings,
                    augment=self._augment,
                    progress=self._progress,
                )
            )
        )
