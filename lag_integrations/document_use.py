"""What becomes of each retrieved document: text in the prompt, an adapter, both, or nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from lag_integrations.modes import Documents, documents_of, mode_with, pins_adapters

Adapters = Mapping[str, Any] | Sequence[str] | None
"""Names, `{name: weight}`, or both by slot."""

SLOTS = {"task", "knowledge"}


class Source(NamedTuple):
    """A retrieved document: what it is called, and the adapter that may be applied for it."""

    label: str
    adapter: str | None


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
    found = own.get("knowledge") or list(dict.fromkeys(s.adapter for s in sources if s.adapter))
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
        "adapters": list(found) if pinned else [],
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
