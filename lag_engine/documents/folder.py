"""A folder's files as documents: found, hashed, read and cut into passages."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lag_engine.documents.loaders import LOADERS, Loader, load_text
from lag_engine.documents.pairs_file import CHUNK_MARK
from lag_engine.documents.passages import Passage, content_hash
from lag_engine.errors import DocumentError

Split = Callable[[str], Sequence[str]]
"""A text to the texts of its passages."""


@dataclass(frozen=True)
class Document:
    """A document in passages.

    Attributes:
        id: Stable; passages and adapters are found by it.
        passages: What is encoded, in order.
        title: As far as it has one.
        source: Where it came from.
        content_hash: Of the source; says whether it has changed.
    """

    id: str
    passages: tuple[Passage, ...]
    title: str = ""
    source: str = ""
    content_hash: str = ""


@dataclass(frozen=True)
class FolderReader:
    """Reads a folder's files, with those of its sub-folders, in the order of their names.

    Hidden files are left out, and files that nothing here reads.

    Attributes:
        path: The folder.
        split: A text to its passages; by default it stays whole.
        split_name: Tells one way of splitting from another; where it changes, so do the documents.
        prefix: Stands before each document's id, which is its path in the folder.
        loaders: Ends of file names to what reads such files.
    """

    path: Path
    split: Split = field(default=lambda text: [text])
    split_name: str = "whole"
    prefix: str = ""
    loaders: Mapping[str, Loader] = field(default_factory=lambda: LOADERS)

    def files(self) -> dict[str, Path]:
        """Document ids to files.

        Raises:
            DocumentError: There is no such folder.
        """
        if not self.path.is_dir():
            raise DocumentError(
                "Expected a folder of documents", f"found none at {self.path}", "check the path"
            )
        return {self._id(path): path for path in self._visible() if self._is_known(path)}

    def ignored(self) -> list[str]:
        """The paths of visible files that nothing here reads."""
        return [self._relative(path) for path in self._visible() if not self._is_known(path)]

    def read(self, document_id: str, path: Path) -> Document:
        """Reads a file.

        Raises:
            DocumentError: It cannot be read, or says nothing.
        """
        loaded = load_text(path, self.loaders)
        texts = [text for text in self.split(loaded.text) if text.strip()]
        passages = tuple(
            Passage(f"{document_id}{CHUNK_MARK}{n}", text, loaded.title)
            for n, text in enumerate(texts)
        )
        return Document(document_id, passages, loaded.title, str(path), self.hash_of(path))

    def hash_of(self, path: Path) -> str:
        """A hash of a file's bytes and of how it is split; hex."""
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return content_hash([digest, self.split_name])

    def _visible(self) -> Iterator[Path]:
        for path in sorted(self.path.rglob("*")):
            parts = path.relative_to(self.path).parts
            if path.is_file() and not any(part.startswith(".") for part in parts):
                yield path

    def _is_known(self, path: Path) -> bool:
        return path.suffix.lower() in self.loaders

    def _relative(self, path: Path) -> str:
        return path.relative_to(self.path).as_posix()

    def _id(self, path: Path) -> str:
        return f"{self.prefix}{self._relative(path)}"
