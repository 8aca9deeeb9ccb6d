"""What a document is called: in records by its id, to people and models by its title."""

from __future__ import annotations

from langchain_core.documents import Document


def label_of(document: Document, position: int) -> str:
    """The document's id, else its source, else its position among those retrieved."""
    metadata = document.metadata
    return str(metadata.get("document_id") or document.id or metadata.get("source") or position)


def title_of(document: Document, position: int) -> str:
    """The document's title, else its label."""
    return str(document.metadata.get("title") or label_of(document, position))
