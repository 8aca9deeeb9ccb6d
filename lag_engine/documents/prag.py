"""PRAG: one small LoRA for each passage (arXiv 2501.15915), trained many at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

from lag_engine.adapters import (
    AdapterInfo,
    AdapterLibrary,
    AdapterSource,
    LoraModule,
    ModuleShape,
    PeftAdapter,
)
from lag_engine.documents.grouping import MemoryBound, Work, batches_of, groups
from lag_engine.documents.passages import Passage, adapter_name, check_distinct, content_hash
from lag_engine.documents.prag_settings import PRAGSettings
from lag_engine.documents.progress import LossLog, ProgressBar, progress_bar
from lag_engine.documents.revisions import Augment, Revisions, base_identity
from lag_engine.documents.sequences import SequenceBuilder
from lag_engine.documents.training import train_stacked
from lag_engine.documents.watch import TrainingWatch
from lag_engine.errors import (
    AdapterMismatchError,
    DuplicateAdapterError,
    LibraryError,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from lag_engine.model.engine import LAGEngine

ENCODER = "prag"
LARGEST_GROUP = 64


T = TypeVar("T")


class Lend(Protocol):
    """Runs work on the model while nothing else is at it, as `LAGEngine.lend` does."""

    def __call__(self, work: Callable[[PreTrainedModel], T], /) -> T:
        """Waits for the work, and returns what it returns."""


class PRAG:
    """Encodes passages as knowledge adapters of a library.

    Passages are trained in groups, and each group joins the library in one change: what a crash
    leaves is complete, and encoding again goes on with the next group.

    Args:
        model: A causal LM of transformers; frozen meanwhile and given back as it was.
        tokenizer: The model's.
        library: Open for writing, and made for this model.
        settings: By default the paper's.
        augment: Called with each passage before it is trained.
        progress: Show a bar on standard error.
        memory_gib: A bound on what a group takes besides the model, by estimate.
        loss_log: A file to which each adapter's loss of each epoch is appended, as JSON lines.
        lend: Runs training where the model may be changed; see `from_engine`.

    Raises:
        LibraryError: The library is read-only.
        AdapterMismatchError: The settings' targets are not in the model, or the library's base
            model has other shapes there.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        library: AdapterLibrary,
        *,
        settings: PRAGSettings | None = None,
        augment: Augment | None = None,
        progress: bool = True,
        memory_gib: float = 2.0,
        loss_log: str | Path | None = None,
        lend: Lend | None = None,
    ) -> None:
        self.settings = settings or PRAGSettings()
        self.library = library
        self._augment = augment
        self._progress = progress
        self._lend = lend or _on_the_spot(model)
        self._log = LossLog(None if loss_log is None else Path(loss_log))
        self._revisions = Revisions(ENCODER, self.settings.told(), base_identity(library), augment)
        self._targets = self.settings.target_paths(model)
        _check_library(library, model, self._targets)
        self._bound = MemoryBound.of(model, self._targets, self.settings.rank, memory_gib * 2**30)
        length = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self._sequences = SequenceBuilder(
            tokenizer, self.settings.style, context_length=length or None
        )
        pad = tokenizer.pad_token_id
        self._pad = int(pad if pad is not None else tokenizer.eos_token_id or 0)

    @classmethod
    def from_engine(cls, engine: LAGEngine, **options: Any) -> Self:
        """Encodes into an engine's library on its model, between its answers, group by group.

        Args:
            engine: With a library that is open for writing; answers go on meanwhile.
            **options: As for the class.

        Raises:
            LibraryError: The engine has no library, or one that is read-only.
        """
        if engine.library is None:
            raise LibraryError(
                "Expected an engine with a library",
                "found one without",
                "make it with LAGEngine(..., library=path, read_only=False)",
            )
        return cls(engine.model, engine.tokenizer, engine.library, lend=engine.lend, **options)

    def adapter_name(self, passage: Passage) -> str:
        """The name of the passage's adapter in the library."""
        return adapter_name(ENCODER, passage.id)

    def told(self) -> dict[str, Any]:
        """What a record of encoded documents keeps of the encoder; JSON can hold it."""
        return {"encoder": ENCODER, "settings": self.settings.told()}

    def revision(self, passage: Passage) -> str:
        """What the passage's adapter depends on, as a short hash.

        The passage as it is given, the augmentation's fingerprint, the settings, and the base
        model's name and shapes.
        """
        return self._revisions(passage)

    def is_current(self, passage: Passage) -> bool:
        """Whether the library holds the adapter of just this passage."""
        name = self.adapter_name(passage)
        snapshot = self.library.snapshot()
        if name not in snapshot:
            return False
        return bool(snapshot.info(name).metadata.get("revision") == self.revision(passage))

    def encode(self, passages: Sequence[Passage]) -> list[AdapterInfo]:
        """Brings the library up to date with the passages; other adapters stay.

        Returns:
            Each passage's adapter, in the order of the passages.

        Raises:
            DocumentError: Two passages have one id, one is too long for the model, or its training
                came to no finite loss.
            DuplicateAdapterError: Some other adapter has a passage's adapter name.
        """
        check_distinct(passages)
        for passage in passages:
            self._refuse_foreign(passage)
        pending = [passage for passage in passages if not self.is_current(passage)]
        work = self._prepare(pending)
        rows = self.settings.batch_size
        with progress_bar(len(work), "Encoding", is_shown=self._progress) as bar:
            for group in groups(work, self._bound, rows=rows, largest=LARGEST_GROUP):
                self._encode_group(group, bar)
        return [self.library.info(self.adapter_name(passage)) for passage in passages]

    def _refuse_foreign(self, passage: Passage) -> None:
        name = self.adapter_name(passage)
        if name not in self.library:
            return
        info = self.library.info(name)
        if info.document_id != passage.id or info.metadata.get("encoder") != ENCODER:
            raise DuplicateAdapterError(
                f"Expected the name {name!r} to be free, or this passage's adapter",
                f"found one of document {info.document_id!r} that PRAG did not make",
                "rename that adapter, or give the passage another id",
            )

    def _prepare(self, passages: Sequence[Passage]) -> list[Work]:
        if self._augment is None:
            return [self._work(passage, passage) for passage in passages]
        work = []
        with progress_bar(len(passages), "Augmenting", is_shown=self._progress) as bar:
            for passage in passages:
                work.append(self._work(passage, self._augment(passage)))
                bar.advance(1)
        return work

    def _work(self, given: Passage, augmented: Passage) -> Work:
        """What is trained is the augmented passage; its revision is that of the given one."""
        start = "" if self.settings.shared_start else given.titled_text
        seed = int(content_hash([self.settings.seed, start])[:12], 16)
        return Work(augmented, self._sequences.of(augmented), seed, self.revision(given))

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

        trained = self._lend(train)
        watch.finish()
        offers = [
            AdapterSource(
                PeftAdapter(modules, self.library.base_model),
                name=self.adapter_name(item.passage),
                kind="knowledge",
                document_id=item.passage.id,
                metadata={
                    "encoder": ENCODER,
                    "revision": item.revision,
                    "title": item.passage.title,
                    **watch.told(g),
                },
            )
            for g, (item, modules) in enumerate(zip(group, trained, strict=True))
        ]
        self.library.add_many(offers, replace=True, progress=False)


def _on_the_spot(model: PreTrainedModel) -> Lend:
    def run(work: Callable[[PreTrainedModel], T], /) -> T:
        return work(model)

    return run


def _check_library(library: AdapterLibrary, model: PreTrainedModel, targets: Sequence[str]) -> None:
    if library.is_read_only:
        raise LibraryError(
            "Expected a library that is open for writing",
            f"found {library.path} opened with read_only=True",
            "open it with AdapterLibrary.open(path)",
        )
    shapes = library.base.shapes
    for name in targets if shapes is not None else ():
        module: Any = model.get_submodule(name)
        found = ModuleShape(module.in_features, module.out_features)
        if shapes is not None and shapes.get(name) != found:
            raise AdapterMismatchError(
                f"Expected the base model of the library, {library.base_model}",
                f"found a model whose {name} has D_in {found.d_in} and D_out {found.d_out}",
                "load the library's own model, or make a library for this one",
            )
