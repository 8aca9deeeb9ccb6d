"""What the encoders of passages have in common: names, revisions, preparation, refusals."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, TypeVar

from lag_engine.adapters import AdapterInfo, AdapterLibrary, ModuleShape
from lag_engine.documents.grouping import MemoryBound, Work
from lag_engine.documents.passages import Passage, adapter_name, check_distinct, content_hash
from lag_engine.documents.progress import LossLog, progress_bar
from lag_engine.documents.revisions import Augment, Revisions, base_identity
from lag_engine.documents.sequences import SequenceBuilder, SequenceFormat
from lag_engine.errors import AdapterMismatchError, DuplicateAdapterError, LibraryError

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from lag_engine.model.engine import LAGEngine

T = TypeVar("T")


class Lend(Protocol):
    """Runs work on the model while nothing else is at it, as `LAGEngine.lend` does."""

    def __call__(self, work: Callable[[PreTrainedModel], T], /) -> T:
        """Waits for the work, and returns what it returns."""


class EncoderSettings(Protocol):
    """What every encoder's settings tell."""

    @property
    def rank(self) -> int:
        """R of the adapters that are trained."""
        ...

    @property
    def style(self) -> SequenceFormat:
        """The form of the training sequences."""
        ...

    def told(self) -> dict[str, Any]:
        """The settings as JSON can hold them."""

    def target_paths(self, model: nn.Module) -> list[str]:
        """Full dotted paths of the modules to adapt; raises AdapterMismatchError."""


class PassageEncoder(ABC):
    """Encodes passages into a library; one child for each method.

    Args:
        model: A causal LM of transformers; frozen meanwhile and given back as it was.
        tokenizer: The model's.
        library: Open for writing, and made for this model.
        settings: Of the method.
        augment: Called with each passage before it is trained.
        progress: Show a bar on standard error.
        memory_gib: A bound on what a group takes besides the model, by estimate.
        loss_log: A file to which each passage's loss of each epoch is appended, as JSON lines.
        lend: Runs training where the model may be changed; see `from_engine`.

    Raises:
        LibraryError: The library is read-only.
        AdapterMismatchError: The settings' targets are not in the model, or the library's base
            model has other shapes there.
    """

    method: ClassVar[str]
    """Its name: of entries in the library, and in their metadata under `encoder`."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        library: AdapterLibrary,
        settings: EncoderSettings,
        *,
        augment: Augment | None = None,
        progress: bool = True,
        memory_gib: float = 2.0,
        loss_log: str | Path | None = None,
        lend: Lend | None = None,
    ) -> None:
        self.library = library
        self._told = settings.told()
        self._augment = augment
        self._progress = progress
        self._lend = lend or _on_the_spot(model)
        self._log = LossLog(None if loss_log is None else Path(loss_log))
        self._revisions = Revisions(self.method, self._told, base_identity(library), augment)
        self._targets = settings.target_paths(model)
        _check_library(library, model, self._targets)
        self._bound = MemoryBound.of(model, self._targets, settings.rank, memory_gib * 2**30)
        length = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self._sequences = SequenceBuilder(tokenizer, settings.style, context_length=length or None)
        pad = tokenizer.pad_token_id
        self._pad = int(pad if pad is not None else tokenizer.eos_token_id or 0)

    @classmethod
    def from_engine(
        cls, engine: LAGEngine, library: AdapterLibrary | None = None, **options: Any
    ) -> Self:
        """Encodes on an engine's model, between its answers, group by group.

        Args:
            engine: Answers go on meanwhile, and see what was added.
            library: The one the engine answers with, open for writing: a second opening of the
                folder where the engine's own is read-only, as by default. None is the engine's own.
            **options: As for the class.

        Raises:
            LibraryError: There is no library, or it is read-only.
        """
        target = engine.library if library is None else library
        if target is None:
            raise LibraryError(
                "Expected an engine with a library",
                "found one without",
                "make it with LAGEngine(..., library=path)",
            )
        return cls(engine.model, engine.tokenizer, target, lend=engine.lend, **options)

    def adapter_name(self, passage: Passage) -> str:
        """The name of the passage's entry in the library."""
        return adapter_name(self.method, passage.id)

    def told(self) -> dict[str, Any]:
        """What a record of encoded documents keeps of the encoder; JSON can hold it."""
        return {"encoder": self.method, "settings": self._told}

    def revision(self, passage: Passage) -> str:
        """What the passage's entry depends on, as a short hash.

        The passage as it is given, the augmentation's fingerprint, the settings, and the base
        model's name and shapes.
        """
        return self._revisions(passage)

    def is_current(self, passage: Passage) -> bool:
        """Whether the library holds the entry of just this passage."""
        name = self.adapter_name(passage)
        snapshot = self.library.snapshot()
        if name not in snapshot:
            return False
        return bool(snapshot.info(name).metadata.get("revision") == self.revision(passage))

    def encode(self, passages: Sequence[Passage]) -> list[AdapterInfo]:
        """Brings the library up to date with the passages; other entries stay.

        Returns:
            Each passage's entry, in the order of the passages.

        Raises:
            DocumentError: Two passages have one id, one is too long for the model, or its training
                came to no finite loss.
            DuplicateAdapterError: Something else has a passage's name in the library.
        """
        check_distinct(passages)
        for passage in passages:
            self._refuse_foreign(passage)
        self._bring_in(passages)
        return [self.library.info(self.adapter_name(passage)) for passage in passages]

    @abstractmethod
    def _bring_in(self, passages: Sequence[Passage]) -> None:
        """Trains what is not current, and adds it."""

    @abstractmethod
    def _seed(self, passage: Passage) -> int:
        """The seed of a passage's training."""

    def _prepare(self, passages: Sequence[Passage]) -> list[Work]:
        """Augments passages and makes their training sequences."""
        if self._augment is None:
            return [self._work(passage, passage) for passage in passages]
        return list(self._augmented(passages, self._augment))

    def _augmented(self, passages: Sequence[Passage], augment: Augment) -> Iterator[Work]:
        with progress_bar(len(passages), "Augmenting", is_shown=self._progress) as bar:
            for passage in passages:
                yield self._work(passage, augment(passage))
                bar.advance(1)

    def _work(self, given: Passage, augmented: Passage) -> Work:
        """What is trained is the augmented passage; its revision is that of the given one."""
        sequences = self._sequences.of(augmented)
        return Work(augmented, sequences, self._seed(given), self.revision(given))

    def _notes(self, item: Work) -> dict[str, Any]:
        """What the metadata of a passage's entry says of the passage."""
        return {
            "encoder": self.method,
            "revision": item.revision,
            "title": item.passage.title,
            "passage": item.passage.text_hash,
        }

    def _refuse_foreign(self, passage: Passage) -> None:
        name = self.adapter_name(passage)
        if name not in self.library:
            return
        info = self.library.info(name)
        if info.document_id != passage.id or info.metadata.get("encoder") != self.method:
            raise DuplicateAdapterError(
                f"Expected the name {name!r} to be free, or this passage's adapter",
                f"found one of document {info.document_id!r} that {type(self).__name__} did not "
                "make",
                "rename that adapter, or give the passage another id",
            )


def seed_of(*parts: object) -> int:
    """A seed that these decide, equal in every process."""
    return int(content_hash(list(parts))[:12], 16)


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
