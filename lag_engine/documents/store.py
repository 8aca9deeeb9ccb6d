"""DocumentStore: which document has which adapters, and one call that brings all up to date.

Three places hold something of a document: the record, the library, and a vector index if there is
one. A change first notes in the record what it is about to do, then does it, each step so that
doing it twice does no harm, and last notes that it is done. So whatever ends it in the middle, the
next `sync` finds the document open and does the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from lag_engine.adapters import AdapterInfo, AdapterLibrary
from lag_engine.documents.folder import Document, FolderReader
from lag_engine.documents.passages import Passage, check_distinct
from lag_engine.documents.records import Records, StoredChunk, StoredDocument
from lag_engine.documents.status import DocumentStatus, held_revision, status_of
from lag_engine.documents.vector_index import IndexEntry, VectorIndex
from lag_engine.errors import DocumentError

OfPassage = Callable[[Passage], str]
"""Tells an encoder's name or revision of a passage's adapter."""


class Encoder(Protocol):
    """What makes adapters of passages, such as `PRAG`."""

    def told(self) -> dict[str, Any]:
        """What the record keeps of the encoder."""

    def adapter_name(self, passage: Passage) -> str:
        """The name of a passage's adapter."""

    def revision(self, passage: Passage) -> str:
        """What the passage's adapter depends on."""

    def encode(self, passages: Sequence[Passage]) -> list[AdapterInfo]:
        """Brings the library up to date with the passages."""


class SyncReport(NamedTuple):
    """What a call of `sync` found, by document id.

    Attributes:
        new: Encoded for the first time.
        changed: Their source had changed; encoded again.
        stale: Encoded again for other settings, or because something was missing.
        current: Left alone.
        deleted: Their source is gone; so are their adapters.
        failed: Their source could not be read; what was encoded of them before stays.
        ignored: Files that nothing reads.
    """

    new: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    stale: tuple[str, ...] = ()
    current: tuple[str, ...] = ()
    deleted: tuple[str, ...] = ()
    failed: Mapping[str, DocumentError] = {}
    ignored: tuple[str, ...] = ()


class DocumentStore:
    """The documents of a library.

    Args:
        library: Open; for reading only, `documents` and `status` work.
        index: Kept in step with the library.
    """

    def __init__(self, library: AdapterLibrary, *, index: VectorIndex | None = None) -> None:
        self.library = library
        self._index = index
        self._records = Records(library.path, read_only=library.is_read_only)

    def close(self) -> None:
        """Closes the record; the library stays open."""
        self._records.close()

    def documents(self) -> list[StoredDocument]:
        """What the record says of every document, by id."""
        return self._records.documents()

    def put(self, documents: Sequence[Document], encoder: Encoder, *, collection: str = "") -> None:
        """Encodes documents and indexes them, in place of those of the same ids.

        Args:
            documents: In passages.
            encoder: Of this store's library.
            collection: What `sync` with this name, and nothing else, may delete again.

        Raises:
            DocumentError: Two passages have one id, or a document is of another collection.
            LagError: Whatever the encoder raises.
        """
        passages = list(chain(*(document.passages for document in documents)))
        check_distinct(passages)
        self._refuse_others(documents, collection)
        self._records.begin(
            documents,
            collection=collection,
            base_model=self.library.base_model,
            encoder=encoder.told(),
            adapters={passage.id: encoder.adapter_name(passage) for passage in passages},
        )
        encoder.encode(passages)
        self._drop_outdated(passages)
        put = {document.id for document in documents}
        for stored in self._records.documents():
            if stored.id in put:
                self._settle(stored)

    def delete(self, ids: Iterable[str]) -> None:
        """Deletes documents from the index, the library and the record.

        Raises:
            DocumentError: There is no document of some id; nothing is deleted then.
        """
        known = {document.id: document for document in self.documents()}
        wanted = list(ids)
        for missing in (key for key in wanted if key not in known):
            raise DocumentError(
                "Expected a document that was encoded here",
                f"found none of id {missing!r}",
                "see `documents()`",
            )
        for key in wanted:
            self._clear(known[key].chunks)
            self._records.forget(key)

    def sync(
        self,
        folder: str | Path | FolderReader,
        encoder: Encoder,
        *,
        collection: str | None = None,
    ) -> SyncReport:
        """Brings library, index and record up to date with a folder of txt, md, html and pdf.

        Args:
            folder: Or how to read it.
            encoder: Of this store's library.
            collection: By default the folder's path: documents that were synchronised from there
                and have no file any more are deleted, others never.

        Raises:
            DocumentError: There is no such folder, or an id belongs to another collection.
            LagError: Whatever the encoder raises.
        """
        reader = folder if isinstance(folder, FolderReader) else FolderReader(Path(folder))
        name = _collection(reader, collection)
        names = encoder.adapter_name
        found = self.status(reader, revision=encoder.revision, name=names, collection=name)
        by_state: dict[str, list[str]] = {}
        for status in found:
            by_state.setdefault(status.state, []).append(status.id)
        known = {document.id: document for document in self._records.documents(name)}
        files, failed, read = reader.files(), dict[str, DocumentError](), list[Document]()
        for key in (*by_state.get("new", []), *by_state.get("changed", [])):
            try:
                read.append(reader.read(key, files[key]))
            except DocumentError as error:
                failed[key] = error
        # First, and with what was encoded of files that cannot be read now: other settings of
        # Poly-PRAG train everything anew, and refuse while passages are left that are not given.
        self.delete(by_state.get("deleted", []))
        kept = [key for key in failed if key in known]
        stale = [_as_document(known[key]) for key in (*by_state.get("stale", []), *kept)]
        self.put([*read, *stale], encoder, collection=name)
        self._index_rest(known[key] for key in by_state.get("current", []))
        told = {
            state: tuple(key for key in ids if key not in failed) for state, ids in by_state.items()
        }
        return SyncReport(**told, failed=failed, ignored=tuple(reader.ignored()))

    def status(
        self,
        folder: str | Path | FolderReader | None = None,
        *,
        revision: OfPassage | None = None,
        name: OfPassage | None = None,
        collection: str | None = None,
    ) -> list[DocumentStatus]:
        """Compares the record with a folder, the library, and settings; changes nothing.

        Args:
            folder: None compares with the library only.
            revision: An encoder's; None takes the settings that were used.
            name: An encoder's `adapter_name`; None takes the adapters that were made last.
            collection: As for `sync`.

        Returns:
            A status for each document of record or folder, by id.
        """
        snapshot = self.library.snapshot()
        if folder is None:
            recorded = self._records.documents(collection)
            return [status_of(d, snapshot, revision, name=name) for d in recorded]
        reader = folder if isinstance(folder, FolderReader) else FolderReader(Path(folder))
        files = reader.files()
        recorded = self._records.documents(_collection(reader, collection))
        known = {document.id: document for document in recorded}
        hashes = {key: reader.hash_of(path) for key, path in files.items()}
        return [
            DocumentStatus.new(key, str(files[key]))
            if key not in known
            else status_of(
                known[key], snapshot, revision, source_hash=hashes.get(key, ""), name=name
            )
            for key in sorted({*files, *known})
        ]

    def reindex(self) -> int:
        """Puts all passages into the index again, for one that is new; returns how many."""
        documents = self.documents()
        for document in documents:
            self._tell_index(document, document.chunks)
        return sum(len(document.chunks) for document in documents)

    def _settle(self, document: StoredDocument) -> None:
        """After encoding: tells the index, removes what is gone, and notes that it is done."""
        live = [chunk for chunk in document.chunks if not chunk.is_gone]
        held = {chunk.id: held_revision(self.library, chunk.adapter) for chunk in live}
        self._clear([chunk for chunk in document.chunks if chunk.is_gone])
        self._tell_index(document, [c for c in live if c.indexed != held[c.id]])
        self._records.finish(document.id, held, is_indexed=self._index is not None)

    def _index_rest(self, documents: Iterable[StoredDocument]) -> None:
        """Tells the index of current documents that it does not know, if it came later."""
        for document in documents if self._index is not None else ():
            if any(chunk.indexed != chunk.revision for chunk in document.chunks):
                self._settle(document)

    def _tell_index(self, document: StoredDocument, chunks: Sequence[StoredChunk]) -> None:
        if self._index is None or not chunks:
            return
        entries = []
        for chunk in chunks:
            told = {
                "document_id": document.id,
                "adapter_id": chunk.adapter,
                "adapter_rev": held_revision(self.library, chunk.adapter),
                "title": document.title,
                "source": document.source,
            }
            kept = {key: value for key, value in told.items() if value}
            entries.append(IndexEntry(chunk.id, chunk.passage.text, kept))
        self._index.replace(entries)

    def _clear(self, chunks: Sequence[StoredChunk]) -> None:
        """Removes chunks from the index first, so that nothing retrieves what is about to go."""
        if self._index is not None and chunks:
            self._index.delete([chunk.id for chunk in chunks])
        gone = {chunk.id for chunk in chunks}
        for info in self._encoded() if gone else ():
            if info.document_id in gone:
                self.library.remove(info.name)

    def _drop_outdated(self, passages: Sequence[Passage]) -> None:
        """Removes what other encoders made of passages that have another text now."""
        texts = {passage.id: passage.text_hash for passage in passages}
        for info in self._encoded():
            wanted = texts.get(info.document_id or "")
            if wanted and info.metadata.get("passage", wanted) != wanted:
                self.library.remove(info.name)

    def _encoded(self) -> list[AdapterInfo]:
        """The adapters and mixtures that encoders made of passages."""
        return [i for i in self.library.list() if i.document_id and "encoder" in i.metadata]

    def _refuse_others(self, documents: Sequence[Document], collection: str) -> None:
        theirs = {d.id: d.collection for d in self.documents() if d.collection != collection}
        for document in documents:
            if document.id in theirs:
                raise DocumentError(
                    f"Expected the document id {document.id!r} to be free, or of this collection",
                    f"found it in {theirs[document.id]!r}",
                    "give this folder a prefix, or both one collection name if they are one",
                )


def _collection(reader: FolderReader, given: str | None) -> str:
    return str(reader.path.resolve()) if given is None else given


def _as_document(stored: StoredDocument) -> Document:
    passages = tuple(chunk.passage for chunk in stored.chunks if not chunk.is_gone)
    return Document(stored.id, passages, stored.title, stored.source, stored.content_hash)
