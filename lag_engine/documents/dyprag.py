"""DyPRAG: adapters made from retrieved text while a question is asked (arXiv 2503.23895).

Two defects of the published code are avoided. It leaves out the LoRA scaling where it applies what
was generated; here an adapter carries its scaling wherever it goes. And for several passages it
averages the A factors and the B factors; here their updates are summed, as a `Generated` selection
does with weights of one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

from lag_engine.documents.dyprag_files import load_translator
from lag_engine.documents.dyprag_translator import Translator
from lag_engine.errors import LibraryError

if TYPE_CHECKING:
    from lag_engine.adapters import PeftAdapter
    from lag_engine.documents.passages import Passage
    from lag_engine.model.engine import LAGEngine


class DyPRAG:
    """An engine's translator.

    ```
    with dyprag.generated(passages) as names:
        engine.generate(question, plan=engine.plan("dyprag", adapters=names))
    ```

    Args:
        engine: Whose model reads the passages and answers.
        translator: Trained on this model.
        allow_other_base: Accept a translator of a model of another name, if modules and widths are
            the same.

    Attributes:
        translator: On the engine's device.
        fingerprint: A hash of the translator.

    Raises:
        AdapterMismatchError: The translator was trained on another base model.
    """

    FOLDER: ClassVar[str] = "translator"
    """Where in a library's folder its translator lies."""

    def __init__(
        self, engine: LAGEngine, translator: Translator, *, allow_other_base: bool = False
    ) -> None:
        self._engine = engine
        self.fingerprint = translator.fingerprint
        self.translator = engine.lend(lambda model: translator.to(next(model.parameters()).device))
        engine.lend(lambda model: translator.shape.check(model, allow_other_base=allow_other_base))

    @classmethod
    def from_engine(cls, engine: LAGEngine, folder: str | Path | None = None) -> Self:
        """The translator of a folder; by default the one that lies in the engine's library.

        Raises:
            LibraryError: No folder is named, and the engine has no library.
            AdapterFormatError: There is no translator in the folder.
            AdapterMismatchError: It was made for another base model.
        """
        path = _own_folder(engine) if folder is None else Path(folder)
        return cls(engine, engine.lend(lambda model: load_translator(path, model)))

    def adapters(self, passages: Sequence[Passage]) -> dict[str, PeftAdapter]:
        """Makes each passage's adapter, in one pass of the model over its text."""
        tokenizer = self._engine.tokenizer
        return self._engine.lend(lambda model: self.translator.adapters(model, tokenizer, passages))

    @contextmanager
    def generated(self, passages: Sequence[Passage]) -> Iterator[tuple[str, ...]]:
        """Makes adapters and holds them in memory; gives the names for plans, passage by passage.

        Requests that begin inside the context keep their adapters to their end.
        """
        with self._engine.generated(self.adapters(passages)) as names:
            yield names


def _own_folder(engine: LAGEngine) -> Path:
    if engine.library is None:
        raise LibraryError(
            "Expected an engine with a library, where its translator lies",
            "found one without",
            "name the translator's folder, or make the engine with a library",
        )
    return engine.library.path / DyPRAG.FOLDER
