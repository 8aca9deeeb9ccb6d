"""What becomes of each retrieved document: text in the prompt, an adapter, both, or nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from lag_integrations.adapter_index import AdapterIndex
from lag_integrations.modes import (
    Documents,
    documents_of,
    encoding_of,
    mode_with,
    pins_adapters,
)

PassageText = Mapping[str, str]
"""What an adapter is made of while the question is asked: `id`, `text` and `title`."""

Adapters = Mapping[str, Any] | Sequence[str] | Sequence[PassageText] | None
"""Names, `{name: weight}`, passages for the modes that make adapters, or these by slot."""

SLOTS = {"task", "knowledge"}


class Source(NamedTuple):
    """A retrieved document.

    Attributes:
        label: what it is called.
        adapter: what may be applied for it: an adapter's name, or the passage to make one of.
    """

    label: str
    adapter: str | PassageText | None


def source_of(
    label: str,
    text: str,
    *,
    mode: str,
    metadata: Mapping[str, Any],
    ids: Sequence[str | None],
    index: AdapterIndex,
) -> Source:
    """A retrieved document with what the mode may apply for it.

    Args:
        label: what it is called.
        text: of the document.
        mode: of the request.
        metadata: of the document.
        ids: under which an adapter of it may have been made, the closest first.
        index: of the engine's library.
    """
    encoding = encoding_of(mode)
    if encoding == "dyprag":
        return Source(label, passage_of(label, text, title=str(metadata.get("title") or "")))
    usable = (index.usable(metadata, key, encoding=encoding) for key in ids)
    return Source(label, next((name for name in usable if name), None))


def passage_of(label: str, text: str, *, title: str = "") -> dict[str, str] | None:
    """A document as a passage to make an adapter of; None if it has no text."""
    content = hashlib.sha256(f"{title}\n{text}".encode()).hexdigest()[:8]
    return {"id": f"{label}#{content}", "text": text, "title": title} if text.strip() else None


@dataclass(frozen=True)
class DocumentUse:
    """How one request uses its documents.

    Args:
        mode: what the request runs in.
        adapters: what it pins, by slot; None where the mode pins nothing.
        as_text: positions of the documents whose text goes into the prompt.
        record: the same for the reader of the answer; JSON-able.
    """

    mode: str
    adapters: dict[str, Any] | None
    as_text: tuple[int, ...]
    record: dict[str, Any]


def decide(
    sources: Sequence[Source], *, mode: str, documents: Documents | None, adapters: Adapters = None
) -> DocumentUse:
    """Returns how a request in this mode uses these documents.

    A document without a usable adapter is used as text where an adapter was wanted. If there is no
    adapter to pin at all, the mode becomes its text counterpart.

    Args:
        sources: the retrieved documents, best first.
        mode: asked for.
        documents: how they should reach the model; None leaves it to the mode.
        adapters: the request's own. Those of the task slot are pinned beside the documents';
            those of the knowledge slot in place of them.

    Raises:
        PlanError: the mode is unknown or cannot use documents in that way.
    """
    mode = mode_with(mode, documents) if documents else mode
    use = documents or documents_of(mode)
    own = by_slot(adapters)
    found = own.get("knowledge") or _distinct(sources)
    fallback = [i for i, s in enumerate(sources) if not s.adapter and use == "adapters"]
    if own.get("knowledge"):
        fallback = []
    if not found and use in ("adapters", "both"):
        mode, use, fallback = mode_with(mode, "text"), "text", list(range(len(sources)))
    as_text = list(range(len(sources))) if use in ("text", "both") else fallback
    pinned = {**own, "knowledge": found} if pins_adapters(mode) else None
    record = {
        "mode": mode,
        "used_as": use,
        "adapters": [_name(adapter) for adapter in found] if pinned else [],
        "text": [sources[i].label for i in as_text],
        "fallback": [sources[i].label for i in fallback],
    }
    return DocumentUse(mode, pinned, tuple(as_text), record)


def by_slot(adapters: Adapters) -> dict[str, Any]:
    """A request's adapters by slot, without the empty ones; bare ones are of the knowledge slot."""
    if not adapters:
        return {}
    if isinstance(adapters, Mapping) and set(adapters) <= SLOTS:
        return {slot: names for slot, names in adapters.items() if names}
    return {"knowledge": adapters}


def _distinct(sources: Sequence[Source]) -> list[str | PassageText]:
    return list({_name(s.adapter): s.adapter for s in sources if s.adapter}.values())


def _name(adapter: str | PassageText) -> str:
    """An adapter's name, or that of the passage it will be made of."""
    return adapter["id"] if isinstance(adapter, Mapping) else adapter
