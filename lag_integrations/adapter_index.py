"""Which adapter a retrieved document has, and whether it was trained on that very document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from lag_engine import AdapterInfo, AdapterLibrary
    from lag_integrations.modes import Encoding

AdapterStatus = Literal["current", "unchecked", "none", "missing", "stale"]
"""Of a retrieved document's adapter: in the library as it was indexed; no library was asked; the
library has none for the document; named by the document but not in the library; in the library, but
not the one that was indexed."""

USABLE = ("current", "unchecked")

KINDS = {"prag": "knowledge", "polyprag": "mixture"}
"""Encoding of documents: the kind of what the library holds of each; PRAG's is asked for first."""


class Finding(NamedTuple):
    """A document's adapter.

    Attributes:
        status: whether it can be used, and if not, why.
        name: of the adapter; None if there is none.
        rev: that it was indexed with or, if the document does not say, the library's; None if
            unknown.
    """

    status: AdapterStatus
    name: str | None
    rev: str | None

    @property
    def metadata(self) -> dict[str, str]:
        """What of this stands in a document's metadata: flat strings."""
        known = {"adapter_id": self.name, "adapter_rev": self.rev, "adapter_status": self.status}
        return {key: value for key, value in known.items() if value is not None}


class AdapterIndex:
    """A library's adapters and mixtures by name and by document; follows the library's changes.

    A document may have one of each kind, whichever its metadata names.

    Args:
        library: an open `AdapterLibrary`; None trusts what the documents say.
    """

    def __init__(self, library: AdapterLibrary | None) -> None:
        self.library = library
        self._generation: int | None = None
        self._by_name: dict[str, AdapterInfo] = {}
        self._by_document: dict[tuple[str, str | None], AdapterInfo] = {}

    def find(
        self,
        metadata: Mapping[str, Any],
        document_id: str | None = None,
        *,
        encoding: Encoding | None = None,
    ) -> Finding:
        """The adapter of the document with this metadata.

        Its name is the metadata's `adapter_id` or, without one, that of the adapter which the
        library has for the document. It is stale if the metadata's `adapter_rev` is another than
        the library's; a document without `adapter_rev` takes the adapter as it is.

        Args:
            metadata: the document's.
            document_id: as the library knows it.
            encoding: whose is wanted: where `adapter_id` names the other kind, it is what the
                library has of this kind for the same passage, of the same text. None takes either.
        """
        name, rev = _text(metadata.get("adapter_id")), _text(metadata.get("adapter_rev"))
        if self.library is None:
            return Finding("unchecked", name, rev)
        self._follow()
        named = self._by_name.get(name) if name else self._of_document(document_id, None)
        if named is None:
            return Finding("missing" if name else "none", name, rev)
        now = revision_of(named)
        status: AdapterStatus = "current" if rev in (None, now) else "stale"
        if encoding is None or named.kind == KINDS[encoding]:
            return Finding(status, named.name, rev or now)
        other = self._of_document(named.document_id, encoding)
        if other is None or other.metadata.get("passage") != named.metadata.get("passage"):
            return Finding("none", None, None)
        return Finding(status, other.name, revision_of(other))

    def usable(
        self,
        metadata: Mapping[str, Any],
        document_id: str | None = None,
        *,
        encoding: Encoding = "prag",
    ) -> str | None:
        """The adapter that an engine with this library may apply for the document, if any.

        What a retriever found out earlier (`adapter_status`) and what the library says now must
        both allow it.
        """
        if self.library is None or is_ruled_out(metadata):
            return None
        return usable_adapter(self.find(metadata, document_id, encoding=encoding).metadata)

    def _of_document(
        self, document_id: str | None, encoding: Encoding | None
    ) -> AdapterInfo | None:
        kinds = KINDS.values() if encoding is None else (KINDS[encoding],)
        found = (self._by_document.get((kind, document_id)) for kind in kinds if document_id)
        return next((info for info in found if info is not None), None)

    def _follow(self) -> None:
        assert self.library is not None
        generation = self.library.generation
        if generation != self._generation:
            infos = self.library.list()
            self._by_name = {info.name: info for info in infos}
            self._by_document = {(i.kind, i.document_id): i for i in infos if i.document_id}
            self._generation = generation


def revision_of(info: AdapterInfo) -> str:
    """What an adapter was made from, if its maker noted that, else what it is."""
    return str(info.metadata.get("revision") or info.sha256)


def usable_adapter(metadata: Mapping[str, Any]) -> str | None:
    """The adapter's name, if the metadata says that it may be applied."""
    return None if is_ruled_out(metadata) else _text(metadata.get("adapter_id"))


def is_ruled_out(metadata: Mapping[str, Any]) -> bool:
    """Whether a library was asked about the document, and its adapter cannot be used."""
    return metadata.get("adapter_status", "unchecked") not in USABLE


def _text(value: Any) -> str | None:
    return str(value) if value else None
