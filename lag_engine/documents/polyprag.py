"""Poly-PRAG: a collection as few latent adapters, and a routing vector for each passage.

arXiv 2511.17044. Encoding is multi-task learning, each passage a task: the latent adapters are
trained once, together with all passages' routing; a passage that comes later gets a routing vector
over the latent adapters as they are, and nothing else changes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lag_engine.adapters import AdapterLibrary, AdapterSource, MixtureSource
from lag_engine.adapters.mixtures import MixtureWeights
from lag_engine.documents.encoder import PassageEncoder, seed_of
from lag_engine.documents.grouping import Work, batches_of, groups
from lag_engine.documents.latent_factors import LatentFactors
from lag_engine.documents.latent_routing import RoutingTable, routed
from lag_engine.documents.latent_training import LatentStep, steps_of, train_mixtures
from lag_engine.documents.passages import Passage
from lag_engine.documents.polyprag_settings import PolyPRAGSettings
from lag_engine.documents.progress import ProgressBar, progress_bar
from lag_engine.documents.training import StepLosses
from lag_engine.documents.watch import TrainingWatch
from lag_engine.errors import DocumentError, LibraryError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

LARGEST_GROUP = 64


class PolyPRAG(PassageEncoder):
    """Encodes passages as mixtures of a library's latent adapters.

    The first call trains the latent adapters with all its passages, and adds everything in one
    change: give it the collection, or a good part. Later calls train routing vectors only, in
    groups, each of which joins in one change. Other settings than the latent adapters were trained
    with train everything anew, which needs all passages at once.

    Args:
        model: A causal LM of transformers; frozen meanwhile and given back as it was.
        tokenizer: The model's.
        library: Open for writing, and made for this model.
        settings: By default the paper's, as far as it could be read.
        **options: As for `PassageEncoder`.

    Raises:
        LibraryError: The library is read-only.
        AdapterMismatchError: The settings' targets are not in the model, or the library's base
            model has other shapes there.
    """

    method = "polyprag"

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        library: AdapterLibrary,
        *,
        settings: PolyPRAGSettings | None = None,
        **options: Any,
    ) -> None:
        self.settings = settings or PolyPRAGSettings()
        super().__init__(model, tokenizer, library, self.settings, **options)
        widths = len(self._targets) * self.settings.n_latents
        # Logits with two moments each, instead of factors; and every token meets all latents.
        self._bound = self._bound._replace(
            per_adapter=16 * widths,
            per_token=self._bound.per_token + 8 * widths * self.settings.rank,
        )

    def _bring_in(self, passages: Sequence[Passage]) -> None:
        if not passages:
            return
        if self._must_train_latents(passages):
            self._train_collection(self._prepare(passages))
            return
        work = self._prepare([passage for passage in passages if not self.is_current(passage)])
        rows, epochs = self.settings.batch_size, self.settings.routing_epochs
        with progress_bar(len(work), "Routing", is_shown=self._progress) as bar:
            for group in groups(work, self._bound, rows=rows, largest=LARGEST_GROUP):
                _, mixtures = self._train([group], bar, epochs=epochs, factors_of=self._held)
                self.library.add_mixtures(mixtures, replace=True)

    def _seed(self, passage: Passage) -> int:
        return seed_of(self.settings.seed, passage.titled_text)

    def _must_train_latents(self, passages: Sequence[Passage]) -> bool:
        """Whether latent adapters are missing, or are to be made anew with other settings."""
        latents = self.library.list("latent")
        if any(info.metadata.get("encoder") != self.method for info in latents):
            raise LibraryError(
                "Expected no latent adapters in the library but those of PolyPRAG",
                f"found {latents[0].name!r}, which came otherwise",
                "remove them, or use a library of its own",
            )
        if latents and latents[0].metadata["settings"] == self.settings.fingerprint:
            return False
        given = {self.adapter_name(passage) for passage in passages}
        left = self.library.snapshot().mixtures.keys() - given
        if left:
            raise DocumentError(
                "Expected the settings that the library's latent adapters were trained with",
                f"found others, and {len(left)} passages that mix these latent adapters but are "
                f"not given now, such as {min(left)!r}",
                "use those settings, or give all passages at once to train everything anew",
            )
        return True

    def _train_collection(self, work: Sequence[Work]) -> None:
        """Trains latent adapters and routing together; nothing is added before the end."""
        settings = self.settings
        rows, largest = settings.batch_size, settings.step_passages
        with progress_bar(len(work), "Encoding", is_shown=self._progress) as bar:
            members = groups(work, self._bound, rows=rows, largest=largest)
            factors, mixtures = self._train(
                members, bar, epochs=settings.epochs, factors_of=self._fresh
            )
        place = {self.adapter_name(item.passage): index for index, item in enumerate(work)}
        notes = {"encoder": self.method, "settings": settings.fingerprint}
        self.library.add_mixtures(
            sorted(mixtures, key=lambda mixture: place[mixture.name]),
            latents=[
                AdapterSource(adapter, name, "latent", metadata=notes)
                for name, adapter in factors.adapters().items()
            ],
            replace=True,
        )

    def _train(
        self,
        members: Sequence[Sequence[Work]],
        bar: ProgressBar,
        *,
        epochs: int,
        factors_of: Callable[[PreTrainedModel], LatentFactors],
    ) -> tuple[LatentFactors, list[MixtureSource]]:
        settings, everyone = self.settings, [item for group in members for item in group]
        batches = [batches_of(group, rows=settings.batch_size, pad=self._pad) for group in members]
        watches = [
            TrainingWatch(group, len(epoch), epochs, bar=bar, log=self._log)
            for group, epoch in zip(members, batches, strict=True)
        ]

        def on_step(step: LatentStep, losses: Tensor) -> None:
            running = torch.ones(len(losses), dtype=torch.bool)
            watches[step.group](step.number, StepLosses(losses, losses.new_zeros(()), running))

        def train(model: PreTrainedModel) -> tuple[LatentFactors, list[MixtureWeights]]:
            factors = factors_of(model)
            table = RoutingTable(
                [item.seed for item in everyone],
                len(factors.modules),
                len(factors.names),
                spread=settings.spread,
                device=next(model.parameters()).device,
            )
            steps = steps_of(members, batches, epochs=epochs, seed=settings.seed)
            train_mixtures(
                model, steps, factors=factors, table=table, settings=settings, on_step=on_step
            )
            return factors, routed(table, factors, top_k=settings.top_k)

        with ExitStack() as stack:
            for watch in watches:
                stack.enter_context(watch.waiting())
            factors, weights = self._lend(train)
        notes = [note for watch in watches for note in _loss_notes(watch)]
        return factors, [
            MixtureSource(
                self.adapter_name(item.passage),
                mixture,
                item.passage.id,
                {**self._notes(item), **note},
            )
            for item, mixture, note in zip(everyone, weights, notes, strict=True)
        ]

    def _fresh(self, model: PreTrainedModel) -> LatentFactors:
        return LatentFactors.fresh(
            model,
            self._targets,
            count=self.settings.n_latents,
            rank=self.settings.rank,
            scaling=self.settings.scaling,
            seed=seed_of(self.settings.seed, "latents"),
        )

    def _held(self, model: PreTrainedModel) -> LatentFactors:
        return LatentFactors.of_library(self.library.snapshot(), model)


def _loss_notes(watch: TrainingWatch) -> list[dict[str, Any]]:
    """Of each passage the last loss; one that is not finite is refused."""
    watch.finish()
    return [{"loss": watch.told(g)["loss"]} for g in range(watch.n_passages)]
