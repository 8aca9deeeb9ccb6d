"""Trains DyPRAG's translator on passages that have PRAG adapters already."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from lag_engine.adapters import AdapterLibrary, LibrarySnapshot, ModuleShape
from lag_engine.adapters.base_model import describe_base
from lag_engine.documents.dyprag_factors import ModuleFactors, stacked_factors, updates_of
from lag_engine.documents.dyprag_settings import DyPRAGSettings
from lag_engine.documents.dyprag_translator import (
    Translator,
    last_hidden,
    shape_for,
    start_of,
    type_of,
)
from lag_engine.documents.grouping import MemoryBound, Work, batches_of, groups
from lag_engine.documents.hooked_updates import frozen, hooked
from lag_engine.documents.passages import Passage, adapter_name, check_distinct
from lag_engine.documents.progress import progress_bar
from lag_engine.documents.revisions import Augment
from lag_engine.documents.sequences import SequenceBuilder
from lag_engine.documents.token_losses import predicted
from lag_engine.documents.training import StackedBatch
from lag_engine.errors import DocumentError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Passages whose adapters tell what lora_A starts from.
_START_PASSAGES = 16


class TranslatorLosses(NamedTuple):
    """The losses of one step, each passage's (G,).

    Attributes:
        tokens: Under the generated adapters.
        divergence: Of the predictions from those under the PRAG adapters, per token.
        distance: Mean squared difference of the updates.
    """

    tokens: Tensor
    divergence: Tensor
    distance: Tensor

    def total(self, settings: DyPRAGSettings) -> Tensor:
        """The loss that is trained; a mean over passages."""
        return (
            settings.lm_weight * self.tokens
            + settings.kl_weight * self.divergence
            + settings.mse_weight * self.distance
        ).mean()


OnStep = Callable[[int, TranslatorLosses], None]


def train_translator(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    library: AdapterLibrary,
    passages: Sequence[Passage],
    *,
    settings: DyPRAGSettings | None = None,
    augment: Augment | None = None,
    progress: bool = True,
    memory_gib: float = 2.0,
    on_step: OnStep | None = None,
) -> Translator:
    """Trains a translator: tokens, predictions and updates of PRAG adapters are its goals.

    The paper compares factors. A library keeps updates, whose factors are not unique, so here the
    updates themselves are compared.

    Args:
        model: The base model, frozen meanwhile; of an engine, inside `LAGEngine.lend`.
        tokenizer: The model's.
        library: Holds the PRAG adapter of every passage. Those that share a start
            (`PRAGSettings(shared_start=True)`, the paper's way) are the easier to learn.
        passages: What to learn from, with their pairs.
        settings: By default the paper's widths and weights.
        augment: Called with each passage first, as for PRAG.
        progress: Show a bar on standard error.
        memory_gib: A bound on what a step takes besides the model, by estimate.
        on_step: Called after each step with its number and losses.

    Raises:
        DocumentError: A passage has no PRAG adapter, the adapters update different modules, or
            training came to no finite loss.
        AdapterMismatchError: Modules of one type differ in width.
    """
    settings = settings or DyPRAGSettings()
    check_distinct(passages)
    goals = _Goals(library.snapshot(), passages)
    with torch.inference_mode(mode=False), torch.enable_grad(), frozen(model):
        run = _Run(model, tokenizer, passages, goals, settings)
        work = run.prepare(passages, augment)
        bound = MemoryBound.of(model, list(goals.shapes), goals.rank, memory_gib * 2**30)
        largest, rows = settings.step_passages, settings.batch_size
        members = groups(work, bound, rows=rows, largest=largest)
        epoch = [
            (group, batch)
            for group in members
            for batch in batches_of(group, rows=rows, pad=run.pad)
        ]
        n_steps = len(epoch) * settings.epochs
        with progress_bar(n_steps, "Translating", is_shown=progress) as bar:
            for step in range(n_steps):
                group, batch = run.order(epoch, step)
                losses = run.step(group, batch)
                bar.advance(1, loss=float(losses.tokens.mean()))
                if on_step is not None:
                    on_step(step, losses)
    return run.translator.eval()


class _Run:
    """One training: the translator, its optimiser, and each passage's state as it was given."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        passages: Sequence[Passage],
        goals: _Goals,
        settings: DyPRAGSettings,
    ) -> None:
        self._model = model
        self._goals = goals
        self._settings = settings
        self._precision = settings.forward_precision(model)
        self.device = next(model.parameters()).device
        length = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self._sequences = SequenceBuilder(tokenizer, settings.style, context_length=length or None)
        pad = tokenizer.pad_token_id
        self.pad = int(pad if pad is not None else tokenizer.eos_token_id or 0)
        shape = shape_for(
            describe_base(model),
            goals.shapes,
            hidden_size=model.config.get_text_config().hidden_size,
            width=settings.width,
            rank=goals.rank,
            scaling=settings.alpha / goals.rank,
        )
        self._hidden = {p.id: last_hidden(model, tokenizer, p) for p in passages}
        states = torch.stack(list(self._hidden.values())).cpu()  # (N, D)
        translator = Translator(shape, goals.starts(), states=states, seed=settings.seed)
        self.translator = translator.to(self.device).train()
        self._optimizer = torch.optim.AdamW(
            self.translator.parameters(),
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
        )

    def prepare(self, passages: Sequence[Passage], augment: Augment | None) -> list[Work]:
        """Augments passages and makes their sequences."""
        ready = passages if augment is None else [augment(passage) for passage in passages]
        return [Work(passage, self._sequences.of(passage), 0, "") for passage in ready]

    def order(
        self, epoch: Sequence[tuple[list[Work], StackedBatch]], step: int
    ) -> tuple[list[Work], StackedBatch]:
        """What a step trains on: every epoch has an order of its own."""
        number, place = divmod(step, len(epoch))
        shuffled = random.Random(self._settings.seed + number).sample(range(len(epoch)), len(epoch))
        return epoch[shuffled[place]]

    def step(self, group: Sequence[Work], batch: StackedBatch) -> TranslatorLosses:
        """Trains on a batch of a group of passages."""
        settings = self._settings
        hidden = torch.stack([self._hidden[item.passage.id] for item in group])
        losses = self.losses(self.translator(hidden), self._goals.of(group, self.device), batch)
        total = losses.total(settings)
        if not bool(torch.isfinite(total)):
            raise DocumentError(
                "Expected training to come to a finite loss",
                f"found {float(total.detach())} at passages such as {group[0].passage.id!r}",
                "lower the learning rate, or clip the gradient",
            )
        total.backward()
        if settings.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.translator.parameters(), settings.clip)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return TranslatorLosses(*(part.detach() for part in losses))

    def losses(
        self,
        made: Mapping[str, ModuleFactors],
        goals: Mapping[str, ModuleFactors],
        batch: StackedBatch,
    ) -> TranslatorLosses:
        """What generated factors of a batch's passages come to, against their PRAG adapters."""
        with hooked(self._model, updates_of(made)):
            student = predicted(self._model, batch, self._precision)
        with torch.no_grad(), hooked(self._model, updates_of(goals)):
            teacher = predicted(self._model, batch, self._precision)
        divergence = functional.kl_div(
            student.logits.log_softmax(-1),
            teacher.logits.log_softmax(-1),
            reduction="none",
            log_target=True,
        ).sum(-1)  # (n,)
        distances = [part.squared_distance(goals[module]) for module, part in made.items()]
        return TranslatorLosses(
            student.losses(), student.mean(divergence), torch.stack(distances).mean(0)
        )


class _Goals:
    """The PRAG adapters of some passages, read when a step needs them.

    Args:
        snapshot: Of their library.
        passages: All that will be asked for.

    Raises:
        DocumentError: One has no adapter, or one of other modules than the first.
    """

    def __init__(self, snapshot: LibrarySnapshot, passages: Sequence[Passage]) -> None:
        names = [adapter_name("prag", passage.id) for passage in passages]
        missing = [name for name in names if name not in snapshot]
        if missing or not names:
            raise DocumentError(
                "Expected passages that have PRAG adapters in the library",
                f"found {len(missing)} of {len(names)} without"
                + (f", such as {missing[0]!r}" if missing else ""),
                "encode them with PRAG first",
            )
        self._snapshot = snapshot
        self._names = names
        layouts = [snapshot.layout(snapshot.row(name)) for name in names]
        odd = [
            n
            for n, layout in zip(names, layouts, strict=True)
            if layout.shapes != layouts[0].shapes
        ]
        if odd:
            raise DocumentError(
                f"Expected PRAG adapters of the same modules as {names[0]!r}",
                f"found others in {odd[0]!r}",
                "encode all passages with the same targets",
            )
        self.shapes: Mapping[str, ModuleShape] = layouts[0].shapes
        self.rank = max(rank for layout in layouts for rank in layout.ranks.values())

    def of(self, group: Sequence[Work], device: torch.device) -> dict[str, ModuleFactors]:
        """The factors of a group's adapters, stacked."""
        names = [adapter_name("prag", item.passage.id) for item in group]
        return stacked_factors([self._snapshot.lora(name) for name in names], device)

    def starts(self) -> dict[str, Tensor]:
        """For each module type the lora_A that a translator begins with."""
        rows: dict[str, list[Tensor]] = {}
        for name in self._names[:_START_PASSAGES]:
            for module, form in self._snapshot.forms(name).items():
                weighted = form.singular[:, None].float() * form.A.float()
                rows.setdefault(type_of(module), []).append(weighted)
        return {kind: start_of(torch.cat(parts), self.rank) for kind, parts in rows.items()}
