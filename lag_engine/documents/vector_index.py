"""What a document store asks of a vector store that it keeps in step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol


class IndexEntry(NamedTuple):
    """A passage for a vector index.

    Attributes:
        id: Of the passage.
        text: To embed.
        metadata: Flat: `document_id`, `adapter_id`, `adapter_rev`, `title`, `source`.
    """

    id: str
    text: str
    metadata: Mapping[str, str]


class VectorIndex(Protocol):
    """A vector store, as far as documents need one."""

    def replace(self, entries: Sequence[IndexEntry]) -> object:
        """Puts entries in, in place of those of the same ids, whose metadata goes."""

    def delete(self, ids: Sequence[str]) -> object:
        """Deletes entries; ids that it lacks do no harm."""
