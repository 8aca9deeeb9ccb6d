"""How a document's record stands to its source, the library and the settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, Self

from lag_engine.adapters import AdapterLibrary, LibrarySnapshot
from lag_engine.documents.passages import Passage
from lag_engine.documents.records import StoredDocument

State = Literal["new", "changed", "stale", "current", "deleted"]


class DocumentStatus(NamedTuple):
    """How a document stands.

    Attributes:
        id: Of the document.
        state: "new": not encoded yet; "changed": its source is another; "stale": an adapter is
            missing or was made with other settings; "current"; "deleted": its source is gone.
        n_passages: As they were encoded.
        n_current: Passages whose adapter is in the library, and the right one.
        source: Where it came from.
        updated: When it was last encoded; ISO 8601, UTC; "" for never.
    """

    id: str
    state: State
    n_passages: int
    n_current: int
    source: str
    updated: str

    @classmethod
    def new(cls, document_id: str, source: str) -> Self:
        """Of a document that the record lacks."""
        return cls(document_id, "new", 0, 0, source, "")


def status_of(
    document: StoredDocument,
    snapshot: LibrarySnapshot,
    revision: Callable[[Passage], str] | None,
    *,
    source_hash: str | None = None,
    name: Callable[[Passage], str] | None = None,
) -> DocumentStatus:
    """Compares a document's record with what there is.

    Args:
        document: As recorded.
        snapshot: Of the library.
        revision: An encoder's; None: the recorded revisions count.
        source_hash: The source's now; "" if it is gone; None if it does not matter.
        name: Of a passage's adapter; None: the recorded names count.
    """
    live = [chunk for chunk in document.chunks if not chunk.is_gone]
    wanted = [chunk.revision if revision is None else revision(chunk.passage) for chunk in live]
    names = [chunk.adapter if name is None else name(chunk.passage) for chunk in live]
    held = [held_revision(snapshot, adapter) for adapter in names]
    n_current = sum(bool(w) and w == h for w, h in zip(wanted, held, strict=True))
    state: State = "current"
    if source_hash == "":
        state = "deleted"
    elif source_hash not in (None, document.content_hash):
        state = "changed"
    elif document.state != "done" and not any(held):
        state = "new"
    elif document.state != "done" or n_current < len(live):
        state = "stale"
    updated = document.updated if document.state == "done" else ""
    return DocumentStatus(document.id, state, len(live), n_current, document.source, updated)


def held_revision(library: AdapterLibrary | LibrarySnapshot, adapter: str) -> str:
    """The revision of an adapter in the library; "" if there is none."""
    if adapter not in library:
        return ""
    return str(library.info(adapter).metadata.get("revision", ""))
