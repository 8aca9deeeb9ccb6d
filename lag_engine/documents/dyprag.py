"""DyPRAG: adapters made from retrieved text while a question is asked (arXiv 2503.23895).

Two defects of the published code are avoided. It leaves out the LoRA scaling where it applies what
was generated; here an adapter carries its scaling wherever it goes. And for several passages it
averages the A factors and the B factors; here their updates are summed, as a `Generated` selection
does with weights of one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lag_engine.documents.dyprag_translator import Translator

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

    Raises:
        AdapterMismatchError: The translator was trained on another base model.
    """

    def __init__(
        self, engine: LAGEngine, translator: Translator, *, allow_other_base: bool = False
    ) -> None:
        self._engine = engine
        self.translator = engine.lend(lambda model: translator.to(next(model.parameters()).device))
        engine.lend(lambda model: translator.shape.check(model, allow_other_base=allow_other_base))

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
