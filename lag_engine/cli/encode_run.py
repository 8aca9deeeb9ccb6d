"""What `lag encode` does: reads a folder, encodes what is new, and tells how documents stand."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

from lag_engine.cli.encode_method import EncodingMethod
from lag_engine.cli.encode_report import Losses, show_counts, show_kept, show_status
from lag_engine.errors import LibraryError

if TYPE_CHECKING:
    from lag_engine.adapters.library import AdapterLibrary
    from lag_engine.documents import (
        Augmenter,
        DocumentStore,
        FolderReader,
        PairsFile,
        Passage,
        SyncReport,
    )
    from lag_engine.documents.encoder import PassageEncoder
    from lag_engine.documents.revisions import Augment
    from lag_engine.model.engine import LAGEngine


class Source:
    """The folder to read, and how."""

    def __init__(self, folder: Path, tokens: int, prefix: str, collection: str | None) -> None:
        self._folder = folder
        self._tokens = tokens
        self._prefix = prefix
        self.collection = collection

    def reader(self, engine: LAGEngine | None = None) -> FolderReader:
        """Reads with the engine's tokenizer; without one, it only tells files apart."""
        from lag_engine.documents import FolderReader, split_text

        def split(text: str) -> list[str]:
            assert engine is not None
            tokenizer: Any = engine.tokenizer
            return split_text(
                text,
                largest=self._tokens,
                count=lambda part: len(tokenizer(part, verbose=False)["input_ids"]),
            )

        name = f"at most {self._tokens} tokens"
        return FolderReader(self._folder, split=split, split_name=name, prefix=self._prefix)


class Steps:
    """What is done to passages before they are trained."""

    def __init__(self, file: PairsFile | None, *, writes: bool, allow_plain: bool) -> None:
        self.file = file
        self._writes = writes
        self._allow_plain = allow_plain

    @classmethod
    def of(cls, pairs: Path | None, *, any_answer: bool, augment: str, allow_plain: bool) -> Steps:
        """The steps that the options name."""
        from lag_engine.documents import PairsFile

        file = None if pairs is None else PairsFile(pairs, check=not any_answer)
        return cls(file, writes=augment == "self", allow_plain=allow_plain)

    def chain(self, writer: Augmenter | None) -> Augment | None:
        """The file's pairs first, then the writer's."""
        from lag_engine.documents.augment import AugmentChain

        steps = tuple(step for step in (self.file, writer) if step is not None)
        return AugmentChain(steps) if steps else None

    def writer(self, engine: LAGEngine, cache: Path) -> Augmenter | None:
        """The engine as a writer, if it is to write."""
        from lag_engine.documents import Augmenter

        if not self._writes:
            return None
        return Augmenter.from_engine(engine, cache=cache, allow_plain=self._allow_plain)

    def unasked_writer(self, name: str) -> Augmenter | None:
        """What tells the writer of that name from others; it cannot write."""
        from lag_engine.documents import Augmenter

        if not self._writes:
            return None
        return Augmenter.from_callable(str, name=name, allow_plain=self._allow_plain)


class Outcome(NamedTuple):
    """What became of a folder.

    Attributes:
        report: Of the documents.
        losses: Of the passages that were encoded.
        unused_lines: Of the pairs file, that no passage took.
        translated: Whether a translator was trained; None if none is asked for.
    """

    report: SyncReport
    losses: Losses
    unused_lines: list[int]
    translated: bool | None


def bring_up_to_date(
    path: Path,
    model: str | None,
    device: str,
    source: Source,
    method: EncodingMethod,
    steps: Steps,
    options: dict[str, Any],
) -> Outcome:
    """Encodes what is not current, into a library that is made if need be."""
    from lag_engine.documents import DocumentStore
    from lag_engine.model.engine import LAGEngine

    source.reader().files()  # a folder that is not there is told before anything is made
    with _opened(path, model) as library:
        name = model or library.base_model or ""
        with LAGEngine.from_pretrained(name, library=library, device=device) as engine:
            writer = steps.writer(engine, path / "augmented")
            chain = steps.chain(writer)
            store, reader = DocumentStore(library), source.reader(engine)
            encoder = method.encoder(engine, chain, options)
            try:
                report = store.sync(reader, encoder, collection=source.collection)
                losses = _losses(store, report)
                translated = _translate(engine, store, method, chain, options)
            except KeyboardInterrupt:
                _tell_kept(store, reader, encoder, source.collection)
                raise
            store.close()
            if writer is not None:
                show_counts(writer.counts, engine.name)
    unused = [] if steps.file is None else steps.file.unused(unread=report.failed)
    return Outcome(report, losses, unused, translated)


def _tell_kept(
    store: DocumentStore, reader: FolderReader, encoder: PassageEncoder, collection: str | None
) -> None:
    """Prints what of the folder is encoded, after Ctrl-C."""
    name, revision = encoder.adapter_name, encoder.revision
    found = store.status(reader, revision=revision, name=name, collection=collection)
    show_kept(sum(d.n_current for d in found), sum(d.n_passages for d in found))


def _losses(store: DocumentStore, report: SyncReport) -> Losses:
    """The last losses of what was encoded now."""
    encoded = {*report.new, *report.changed, *report.stale}
    names = [c.adapter for d in store.documents() if d.id in encoded for c in d.chunks]
    infos = [store.library.info(name) for name in names if name in store.library]
    found = {str(i.document_id): float(i.metadata["loss"]) for i in infos if "loss" in i.metadata}
    return Losses(median(found.values()) if found else None, found)


def _translate(
    engine: LAGEngine,
    store: DocumentStore,
    method: EncodingMethod,
    augment: Augment | None,
    options: dict[str, Any],
) -> bool | None:
    from lag_engine.documents.dyprag_keeping import keep_translator

    passages = _taught(store)
    if method.translator is None or not passages:
        return None
    return keep_translator(
        engine,
        store.library,
        passages,
        settings=method.translator,
        augment=augment,
        progress=options["progress"],
        memory_gib=options["memory_gib"],
    )


def _taught(store: DocumentStore) -> list[Passage]:
    """The recorded passages that have a PRAG adapter."""
    from lag_engine.documents.passages import adapter_name

    passages = [chunk.passage for document in store.documents() for chunk in document.chunks]
    return [passage for passage in passages if adapter_name("prag", passage.id) in store.library]


def _opened(path: Path, model: str | None) -> AdapterLibrary:
    """Opens the library for writing; makes one for the model if there is none."""
    from lag_engine.adapters.library import AdapterLibrary
    from lag_engine.adapters.manifest import FILE_NAME
    from lag_engine.model.loading import resolve

    if (path / FILE_NAME).exists():
        opened = AdapterLibrary.open(path)
        if model is None and opened.base_model is None:
            opened.close()
            raise LibraryError(
                "Expected a library that knows its base model, or --model",
                f"found neither for {path}",
                "pass --model",
            )
        return opened
    if model is None:
        raise LibraryError(
            f"Expected a library at {path}, or --model to make one for",
            "found neither",
            "check the path, or pass --model",
        )
    return AdapterLibrary.create(path, base_model=resolve(model), base_name=model)


def tell_status(path: Path, source: Source, method: EncodingMethod, steps: Steps) -> None:
    """Prints how every document stands; changes nothing."""
    from lag_engine.adapters.library import AdapterLibrary
    from lag_engine.documents import DocumentStore
    from lag_engine.documents.dyprag_keeping import is_translator_current
    from lag_engine.documents.passages import adapter_name
    from lag_engine.documents.revisions import Revisions, base_identity

    with AdapterLibrary.open(path, read_only=True) as library:
        chain = steps.chain(steps.unasked_writer(library.base_model or ""))
        revision = Revisions(method.encodes, method.settings.told(), base_identity(library), chain)
        store = DocumentStore(library)
        found = store.status(
            source.reader(),
            revision=revision,
            name=lambda passage: adapter_name(method.encodes, passage.id),
            collection=source.collection,
        )
        passages = _taught(store)
        store.close()
        is_current = None
        if method.translator is not None:
            is_current = is_translator_current(library, passages, method.translator)
    show_status(found, has_translator=is_current)
