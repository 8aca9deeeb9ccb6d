"""`lag encode`: a folder of documents becomes knowledge adapters of a library."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from lag_engine.cli.encode_report import show_counts, show_report, show_status
from lag_engine.errors import LibraryError

if TYPE_CHECKING:
    from lag_engine.adapters.library import AdapterLibrary
    from lag_engine.documents import Augmenter, FolderReader, PairsFile, PRAGSettings, SyncReport
    from lag_engine.documents.revisions import Augment
    from lag_engine.model.engine import LAGEngine

Folder = Annotated[Path, typer.Argument(help="With txt, md, html and pdf files.")]
Library = Annotated[Path, typer.Option(help="Its folder; with --model, it is made if need be.")]
Model = Annotated[
    str | None,
    typer.Option(help="'lag-tiny', a folder or a hub id.  [default: the library's base model]"),
]
Method = Annotated[Literal["prag"], typer.Option(help="prag: a small LoRA for each passage.")]
Status = Annotated[bool, typer.Option("--status", help="Only show how every document stands.")]
Pairs = Annotated[
    Path | None,
    typer.Option(help='A file of lines {"id": FILE, "question": ..., "answer": ...}.'),
]
AnyAnswer = Annotated[
    bool,
    typer.Option(
        "--any-answer", help="Answers for one passage (FILE#0, ...) need not stand in it."
    ),
]
Write = Annotated[
    Literal["none", "self"],
    typer.Option("--augment", help="self: the model writes missing pairs and rewrites."),
]
AllowPlain = Annotated[
    bool, typer.Option("--allow-plain", help="Go on where it writes no usable pair.")
]
PassageTokens = Annotated[int, typer.Option(min=8, help="The most tokens of a passage.")]
Prefix = Annotated[str, typer.Option(help="Before each document's id, which is its path.")]
Collection = Annotated[
    str | None, typer.Option(help="A name, for a folder that may move.  [default: its path]")
]
Rank = Annotated[int, typer.Option(min=1, help="Of each adapter.")]
Alpha = Annotated[float, typer.Option(help="An update is multiplied by alpha / rank.")]
LearningRate = Annotated[float, typer.Option(help="Of AdamW.")]
Epochs = Annotated[int, typer.Option(min=1, help="Passes over a passage's sequences.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Sequences in one step.")]
Clip = Annotated[float | None, typer.Option(help="The largest gradient norm.")]
StopLoss = Annotated[
    float | None, typer.Option(help="A passage is done at this mean loss of an epoch.")
]
SharedLoraA = Annotated[
    bool, typer.Option("--shared-lora-a", help="One lora_A for all passages, not trained.")
]
Seed = Annotated[int, typer.Option(help="Of every adapter's start.")]
MemoryGib = Annotated[float, typer.Option(help="For training, besides the model.")]
LossLog = Annotated[Path | None, typer.Option(help="A file to append losses to, as JSON lines.")]
Device = Annotated[str, typer.Option(help="'auto', 'cpu', 'cuda:0', ...")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bars.")]


def encode(
    folder: Folder,
    library: Library,
    model: Model = None,
    method: Method = "prag",
    status: Status = False,
    pairs: Pairs = None,
    any_answer: AnyAnswer = False,
    augment: Write = "none",
    allow_plain: AllowPlain = False,
    passage_tokens: PassageTokens = 256,
    prefix: Prefix = "",
    collection: Collection = None,
    rank: Rank = 2,
    alpha: Alpha = 32.0,
    learning_rate: LearningRate = 3e-4,
    epochs: Epochs = 2,
    batch_size: BatchSize = 1,
    clip: Clip = None,
    stop_loss: StopLoss = None,
    shared_lora_a: SharedLoraA = False,
    seed: Seed = 0,
    memory_gib: MemoryGib = 2.0,
    loss_log: LossLog = None,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Bring a library up to date with a folder: new, changed, stale and deleted documents.

    Cut off anywhere, it goes on from there when it is run again. Exits with 1 if some file could
    not be read.
    """
    from lag_engine.documents import PairsFile, PRAGSettings

    settings = PRAGSettings(
        rank=rank,
        alpha=alpha,
        learning_rate=learning_rate,
        epochs=epochs,
        batch_size=batch_size,
        clip=clip,
        stop_loss=stop_loss,
        shared_lora_A=shared_lora_a,
        seed=seed,
    )
    source = _Source(folder, passage_tokens, prefix, collection)
    steps = _Steps(
        None if pairs is None else PairsFile(pairs, check=not any_answer),
        writes=augment == "self",
        allow_plain=allow_plain,
    )
    if status:
        _show_status(library, source, settings, steps, method)
        return
    options = {"memory_gib": memory_gib, "loss_log": loss_log, "progress": not quiet}
    report, unused = _sync(library, model, device, source, settings, steps, options)
    show_report(report, unused_lines=unused)
    if report.failed:
        raise typer.Exit(1)


class _Source:
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


class _Steps:
    """What is done to passages before they are trained."""

    def __init__(self, file: PairsFile | None, *, writes: bool, allow_plain: bool) -> None:
        self.file = file
        self._writes = writes
        self._allow_plain = allow_plain

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


def _sync(
    path: Path,
    model: str | None,
    device: str,
    source: _Source,
    settings: PRAGSettings,
    steps: _Steps,
    options: dict[str, Any],
) -> tuple[SyncReport, list[int]]:
    """Encodes; also returns the lines of the pairs file that no passage took."""
    from lag_engine.documents import PRAG, DocumentStore
    from lag_engine.model.engine import LAGEngine

    with _opened(path, model) as library:
        name = model or library.base_model or ""
        with LAGEngine.from_pretrained(name, library=library, device=device) as engine:
            writer = steps.writer(engine, path / "augmented")
            chain = steps.chain(writer)
            encoder = PRAG.from_engine(engine, settings=settings, augment=chain, **options)
            store = DocumentStore(library)
            reader = source.reader(engine)
            report = store.sync(reader, encoder, collection=source.collection)
            store.close()
            if writer is not None:
                show_counts(writer.counts, engine.name)
    is_whole = steps.file is not None and not report.failed
    return report, steps.file.unused if is_whole and steps.file else []


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


def _show_status(
    path: Path, source: _Source, settings: PRAGSettings, steps: _Steps, method: str
) -> None:
    from lag_engine.adapters.library import AdapterLibrary
    from lag_engine.documents import DocumentStore
    from lag_engine.documents.revisions import Revisions, base_identity

    with AdapterLibrary.open(path, read_only=True) as library:
        chain = steps.chain(steps.unasked_writer(library.base_model or ""))
        revision = Revisions(method, settings.told(), base_identity(library), chain)
        store = DocumentStore(library)
        found = store.status(source.reader(), revision=revision, collection=source.collection)
        store.close()
    show_status(found)
