"""The translator that lies in a library, kept in step with the passages it was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lag_engine.adapters import AdapterLibrary, LibrarySnapshot
from lag_engine.documents.dyprag import DyPRAG
from lag_engine.documents.dyprag_files import made_of, save_translator
from lag_engine.documents.dyprag_settings import DyPRAGSettings
from lag_engine.documents.dyprag_training import train_translator
from lag_engine.documents.passages import Passage, adapter_name, content_hash
from lag_engine.documents.revisions import Augment
from lag_engine.documents.status import held_revision
from lag_engine.documents.watch import Wait

if TYPE_CHECKING:
    from lag_engine.model.engine import LAGEngine


def is_translator_current(
    library: AdapterLibrary, passages: Sequence[Passage], settings: DyPRAGSettings
) -> bool:
    """Whether the library's translator was trained on just these adapters, with these settings."""
    return made_of(library.path / DyPRAG.FOLDER) == _origin(library.snapshot(), passages, settings)


def keep_translator(
    engine: LAGEngine,
    library: AdapterLibrary,
    passages: Sequence[Passage],
    *,
    settings: DyPRAGSettings,
    augment: Augment | None = None,
    progress: bool = True,
    memory_gib: float = 2.0,
) -> bool:
    """Trains the library's translator, unless it is current; returns whether it was trained.

    Args:
        engine: Answers go on before and after, and wait for the training.
        library: Holds the passages' PRAG adapters.
        passages: As they were given to PRAG.
        settings: Of the translator.
        augment: As for PRAG.
        progress: Show a bar on standard error.
        memory_gib: A bound on what a step takes besides the model, by estimate.

    Raises:
        DocumentError: As for `train_translator`.
    """
    if is_translator_current(library, passages, settings):
        return False
    origin, wait = _origin(library.snapshot(), passages, settings), Wait()
    with wait.waiting():
        translator = engine.lend(
            lambda model: train_translator(
                model,
                engine.tokenizer,
                library,
                passages,
                settings=settings,
                augment=augment,
                progress=progress,
                memory_gib=memory_gib,
                on_step=lambda step, losses: wait.check(),
            )
        )
    save_translator(translator, library.path / DyPRAG.FOLDER, made_of=origin)
    return True


def _origin(
    snapshot: LibrarySnapshot, passages: Sequence[Passage], settings: DyPRAGSettings
) -> str:
    """A hash of the adapters that teach and of the settings; a training has no other input."""
    names = sorted(adapter_name("prag", passage.id) for passage in passages)
    told = [[name, held_revision(snapshot, name)] for name in names]
    return content_hash([settings.told(), told])[:16]
