"""LlamaIndex's nodes and their adapters: identity, metadata, and what stays out of prompts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from llama_index.core.schema import BaseNode, MetadataMode

from lag_integrations.adapter_index import AdapterIndex, Finding
from lag_integrations.document_use import Source, source_of

if TYPE_CHECKING:
    from lag_engine import AdapterLibrary

KEYS = ("adapter_id", "adapter_rev", "adapter_status")
"""Metadata keys of the adapter; their values are scalars, as vector stores take them."""


def index_of(library: AdapterLibrary | str | Path | None) -> AdapterIndex:
    """The index of an open library or of a library's folder; None trusts the nodes' metadata."""
    if isinstance(library, str | Path):
        from lag_engine import AdapterLibrary

        library = AdapterLibrary.open(library, read_only=True)
    return AdapterIndex(library)


def find_adapter(node: BaseNode, index: AdapterIndex) -> Finding:
    """The adapter that the node's metadata names, else that of the node or of its document."""
    findings = [index.find(node.metadata, document_id) for document_id in _ids(node)]
    return next((finding for finding in findings if finding.status != "none"), findings[0])


def source_of_node(node: BaseNode, index: AdapterIndex, *, mode: str) -> Source:
    """The node for `decide`, with its adapter if both the node and the library allow it."""
    label = str(node.metadata.get("document_id") or node.ref_doc_id or node.node_id)
    text = node.get_content(metadata_mode=MetadataMode.NONE)
    ids = _ids(node)
    return source_of(label, text, mode=mode, metadata=node.metadata, ids=ids, index=index)


def _ids(node: BaseNode) -> list[str]:
    """Under which an adapter may have been made, the closest first."""
    ids = (node.metadata.get("document_id"), node.node_id, node.ref_doc_id)
    return [str(i) for i in ids if i]


def annotate(node: BaseNode, finding: Finding) -> None:
    """Writes the finding into the node's metadata, hidden from prompts and embeddings."""
    node.metadata.update(finding.metadata)
    for hidden in (node.excluded_llm_metadata_keys, node.excluded_embed_metadata_keys):
        hidden.extend(key for key in KEYS if key not in hidden)
