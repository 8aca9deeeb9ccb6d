"""PRAG: one small LoRA for each passage (arXiv 2501.15915), trained many at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lag_engine.adapters import AdapterLibrary, AdapterSource, LoraModule, PeftAdapter
from lag_engine.documents.encoder import PassageEncoder, seed_of
from lag_engine.documents.grouping import Work, batches_of, groups
from lag_engine.documents.passages import Passage
from lag_engine.documents.prag_settings import PRAGSettings
from lag_engine.documents.progress import ProgressBar, progress_bar
from lag_engine.documents.training import train_stacked
from lag_engine.documents.watch import TrainingWatch

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

LARGEST_GROUP = 64


class PRAG(PassageEncoder):
    """Encodes passages as knowledge adapters of a library.

    Passages are trained in groups, and each group joins the library in one change: what a crash
    leaves is complete, and encoding again goes on with the next group.

    Args:
        model: A causal LM of transformers; frozen meanwhile and given back as it was.
        tokenizer: The model's.
        library: Open for writing, and made for this model.
        settings: By default the paper's.
        **options: As for `PassageEncoder`.

    Raises:
        LibraryError: The library is read-only.
        AdapterMismatchError: The settings' targets are not in the model, or the library's base
            model has other shapes there.
    """

    method = "prag"

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        library: AdapterLibrary,
        *,
        settings: PRAGSettings | None = None,
        **options: Any,
    ) -> None:
        self.settings = settings or PRAGSettings()
        super().__init__(model, tokenizer, library, self.settings, **options)

    def _bring_in(self, passages: Sequence[Passage]) -> None:
        work = self._prepare([passage for passage in passages if not self.is_current(passage)])
        rows = self.settings.batch_size
        with progress_bar(len(work), "Encoding", is_shown=self._progress) as bar:
            for group in groups(work, self._bound, rows=rows, largest=LARGEST_GROUP):
                self._encode_group(group, bar)

    def _seed(self, passage: Passage) -> int:
        return seed_of(
            self.settings.seed, "" if self.settings.shared_start else passage.titled_text
        )

    def _encode_group(self, group: Sequence[Work], bar: ProgressBar) -> None:
        epoch = batches_of(group, rows=self.settings.batch_size, pad=self._pad)
        watch = TrainingWatch(group, len(epoch), self.settings.epochs, bar=bar, log=self._log)

        def train(model: PreTrainedModel) -> list[dict[str, LoraModule]]:
            return train_stacked(
                model,
                epoch * self.settings.epochs,
                count=len(group),
                steps=len(epoch) * self.settings.epochs,
                targets=self._targets,
                options=self.settings.training(model, window=len(epoch)),
                seeds=[item.seed for item in group],
                on_step=watch,
            )

        with watch.waiting():
            trained = self._lend(train)
        watch.finish()
        offers = [
            AdapterSource(
                PeftAdapter(modules, self.library.base_model),
                name=self.adapter_name(item.passage),
                kind="knowledge",
                document_id=item.passage.id,
                metadata={**self._notes(item), **watch.told(g)},
                shares_lora_A=self.settings.shared_lora_A,
            )
            for g, (item, modules) in enumerate(zip(group, trained, strict=True))
        ]
        self.library.add_many(offers, replace=True, progress=False)
