"""Adapters of the same documents from a second library, such as those of a control."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lag_engine.adapters import AdapterLibrary, PeftAdapter
from lag_engine.errors import EvaluationError

if TYPE_CHECKING:
    from lag_engine.documents import Passage
    from lag_engine.model.engine import LAGEngine


class BorrowedAdapters:
    """Lends an engine knowledge adapters that its own library lacks, so that nothing routes there.

    A library with one knowledge adapter has one that was trained on all documents: every document
    gets it. In any other, a document's adapter is the one that carries its id.

    Args:
        engine: who answers.
        path: of the second library.

    Raises:
        EvaluationError: it holds no knowledge adapters.
        LibraryError: there is no library.
    """

    def __init__(self, engine: LAGEngine, path: str | Path) -> None:
        self._engine = engine
        self._path = path
        with AdapterLibrary.open(path, read_only=True) as library:
            self._library = library.snapshot()
            self.fingerprint = library.fingerprint
        infos = self._library.list("knowledge")
        if not infos:
            raise EvaluationError(
                f"Expected knowledge adapters in {path}",
                "found none",
                "encode the documents into it first",
            )
        self._for_all = infos[0].name if len(infos) == 1 else None
        self._by_document = {info.document_id: info.name for info in infos}

    @contextmanager
    def generated(self, passages: Sequence[Passage]) -> Iterator[tuple[str, ...]]:
        """Holds the passages' adapters; gives their names, passage by passage.

        Raises:
            EvaluationError: a passage has none.
        """
        wanted = [self._name(passage.id) for passage in passages]
        adapters = {
            name: PeftAdapter(self._library.lora(name), None, {}, name)
            for name in dict.fromkeys(wanted)
        }
        with self._engine.generated(adapters) as names:
            held = dict(zip(adapters, names, strict=True))
            yield tuple(held[name] for name in wanted)

    def _name(self, document: str) -> str:
        name = self._for_all or self._by_document.get(document)
        if name is None:
            raise EvaluationError(
                f"Expected an adapter of every document in {self._path}",
                f"found none of {document!r}",
                "encode this document into it too",
            )
        return name
