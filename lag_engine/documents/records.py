"""The record of encoded documents: an SQLite file beside the library's manifest."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

from lag_engine.adapters.connection import connect
from lag_engine.documents.folder import Document
from lag_engine.documents.passages import Passage, QuestionAnswer
from lag_engine.errors import DocumentError

FILE_NAME = "documents.sqlite"
FORMAT_VERSION = 1

_SCHEMA = """
CREATE TABLE documents (
    id TEXT PRIMARY KEY,
    collection TEXT NOT NULL,
    source TEXT NOT NULL,
    title TEXT NOT NULL,
    content_hash TEXT NOT NULL,
    base_model TEXT,
    encoder TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('open', 'done')),
    updated TEXT NOT NULL
);
CREATE TABLE chunks (
    id TEXT PRIMARY KEY,
    document_id TEXT NOT NULL REFERENCES documents (id) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    passage TEXT NOT NULL,
    adapter TEXT NOT NULL,
    revision TEXT NOT NULL DEFAULT '',
    indexed TEXT NOT NULL DEFAULT '',
    is_gone INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX chunks_of ON chunks (document_id);
"""


class StoredChunk(NamedTuple):
    """A passage that was encoded.

    Attributes:
        id: Of the passage.
        passage: What was encoded.
        adapter: The name of its adapter.
        revision: Of its adapter, when its document was done.
        indexed: The revision that the index was told last; "" for none.
        is_gone: Its document does not have it any more, and its traces are to be removed.
    """

    id: str
    passage: Passage
    adapter: str
    revision: str
    indexed: str
    is_gone: bool


class StoredDocument(NamedTuple):
    """A document of the record.

    Attributes:
        id: Of the document.
        collection: Which call of `sync` it belongs to: a folder, by default.
        source: Where it came from.
        title: As far as it has one.
        content_hash: Of the source.
        base_model: The library's.
        encoder: The encoder and its settings.
        state: "open" while it is being encoded, "done" after.
        updated: When it was last encoded; ISO 8601, UTC.
        chunks: Its passages, in order.
    """

    id: str
    collection: str
    source: str
    title: str
    content_hash: str
    base_model: str | None
    encoder: Mapping[str, Any]
    state: Literal["open", "done"]
    updated: str
    chunks: tuple[StoredChunk, ...]


class Records:
    """The record of one library.

    Args:
        folder: The library's.
        read_only: Of a record that is not there, nothing is made: it is empty.
    """

    def __init__(self, folder: Path, *, read_only: bool) -> None:
        path = folder / FILE_NAME
        if not path.exists() and not read_only:
            _create(path)
        self._db = connect(path, read_only=read_only) if path.exists() else None
        if self._db is not None:
            self._db.execute("PRAGMA foreign_keys = 1")
            self._check_version(path)

    def close(self) -> None:
        """Closes the file."""
        if self._db is not None:
            self._db.close()

    def documents(self, collection: str | None = None) -> list[StoredDocument]:
        """The documents, of one collection or all, by id."""
        where = "" if collection is None else " WHERE collection = ?"
        values = () if collection is None else (collection,)
        rows = self._read(f"SELECT * FROM documents{where} ORDER BY id", values)  # noqa: S608
        chunks: dict[str, list[StoredChunk]] = {}
        for document_id, *row in self._read(
            "SELECT document_id, id, passage, adapter, revision, indexed, is_gone FROM chunks "
            "ORDER BY position"
        ):
            chunks.setdefault(document_id, []).append(_chunk(row))
        return [_document(row, chunks.get(row[0], [])) for row in rows]

    def document(self, document_id: str) -> StoredDocument | None:
        """One document, if there is one of that id."""
        return {document.id: document for document in self.documents()}.get(document_id)

    def begin(
        self,
        documents: Sequence[Document],
        *,
        collection: str,
        base_model: str | None,
        encoder: Mapping[str, Any],
        adapters: Mapping[str, str],
    ) -> None:
        """Notes what is about to be encoded, in one change; what a document loses is kept as gone.

        Args:
            documents: New and known ones.
            collection: Theirs.
            base_model: The library's.
            encoder: The encoder and its settings.
            adapters: Passage ids to adapter names.
        """
        told = json.dumps(encoder, sort_keys=True)
        with self._change() as db:
            for document in documents:
                db.execute(
                    "INSERT INTO documents VALUES (?, ?, ?, ?, ?, ?, ?, 'open', ?) "
                    "ON CONFLICT (id) DO UPDATE SET collection = excluded.collection, "
                    "source = excluded.source, title = excluded.title, "
                    "content_hash = excluded.content_hash, base_model = excluded.base_model, "
                    "encoder = excluded.encoder, state = 'open'",
                    (
                        document.id,
                        collection,
                        document.source,
                        document.title,
                        document.content_hash,
                        base_model,
                        told,
                        _now(),
                    ),
                )
                db.execute("UPDATE chunks SET is_gone = 1 WHERE document_id = ?", (document.id,))
                db.executemany(
                    "INSERT INTO chunks (id, document_id, position, passage, adapter) "
                    "VALUES (?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET "
                    "position = excluded.position, passage = excluded.passage, "
                    "adapter = excluded.adapter, is_gone = 0",
                    [
                        (p.id, document.id, n, json.dumps(asdict(p)), adapters[p.id])
                        for n, p in enumerate(document.passages)
                    ],
                )

    def finish(self, document_id: str, revisions: Mapping[str, str], *, is_indexed: bool) -> None:
        """Notes that a document is encoded, and forgets what it lost.

        Args:
            document_id: Of the document.
            revisions: Chunk ids to their adapters' revisions.
            is_indexed: Whether the index was told these.
        """
        fields = "revision = ?1, indexed = ?1" if is_indexed else "revision = ?1"
        with self._change() as db:
            db.execute("DELETE FROM chunks WHERE document_id = ? AND is_gone", (document_id,))
            db.executemany(
                f"UPDATE chunks SET {fields} WHERE id = ?2",  # noqa: S608
                [(revision, chunk) for chunk, revision in revisions.items()],
            )
            db.execute(
                "UPDATE documents SET state = 'done', updated = ? WHERE id = ?",
                (_now(), document_id),
            )

    def forget(self, document_id: str) -> None:
        """Deletes a document with its chunks."""
        with self._change() as db:
            db.execute("DELETE FROM documents WHERE id = ?", (document_id,))

    @contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        assert self._db is not None
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield self._db
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def _read(self, query: str, values: Sequence[object] = ()) -> list[Any]:
        return [] if self._db is None else self._db.execute(query, values).fetchall()

    def _check_version(self, path: Path) -> None:
        try:
            found = self._read("PRAGMA user_version")[0][0]
        except sqlite3.DatabaseError as error:
            found = str(error)
        if found != FORMAT_VERSION:
            self.close()
            raise DocumentError(
                f"Expected a record of documents of format {FORMAT_VERSION} at {path}",
                f"found {found}",
                "move the file away and encode again: adapters that are current stay",
            )


def _create(path: Path) -> None:
    """Makes an empty record; it appears whole or not at all."""
    partial = path.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    with closing(sqlite3.connect(partial)) as db, db:
        db.executescript(_SCHEMA)
        db.execute(f"PRAGMA user_version = {FORMAT_VERSION}")
    partial.replace(path)


def _chunk(row: Sequence[Any]) -> StoredChunk:
    chunk_id, passage, adapter, revision, indexed, is_gone = row
    told = json.loads(passage)
    told["pairs"] = tuple(QuestionAnswer(**pair) for pair in told["pairs"])
    told["rewrites"] = tuple(told["rewrites"])
    return StoredChunk(chunk_id, Passage(**told), adapter, revision, indexed, bool(is_gone))


def _document(row: Sequence[Any], chunks: Sequence[StoredChunk]) -> StoredDocument:
    values = dict(zip(StoredDocument._fields, row, strict=False))
    values["encoder"] = json.loads(values["encoder"])
    return StoredDocument(**values, chunks=tuple(chunks))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
