"""The documents that tools retrieved, read back from a conversation, and what becomes of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from langchain_core.documents import Document
from langchain_core.messages import BaseMessage, HumanMessage, ToolMessage

from lag_integrations.adapter_index import AdapterIndex, is_ruled_out, usable_adapter
from lag_integrations.document_use import Adapters, Source, by_slot, decide, source_of
from lag_integrations.langchain.labels import label_of
from lag_integrations.modes import Documents, encoding_of, pins_adapters

if TYPE_CHECKING:
    from lag_engine import AdapterLibrary

WISH_KEY = "lag_documents"
"""Metadata of a document that a tool retrieved: how the tool meant it to be used."""


class ToolAdapter(NamedTuple):
    """An adapter that a tool's document names.

    Attributes:
        name: of the adapter.
        rev: the revision that the document was retrieved with; None if unknown.
    """

    name: str
    rev: str | None


@dataclass(frozen=True)
class ToolUse:
    """How one call uses the documents that tools have retrieved.

    Attributes:
        messages: the conversation, with the text of those documents whose adapter was to be used
            and cannot be any more.
        mode: what the call runs in.
        adapters: what it pins, by slot; None where the mode pins nothing.
        record: for the reader of the answer; JSON-able.
    """

    messages: list[BaseMessage]
    mode: str
    adapters: dict[str, Any] | None
    record: dict[str, Any]


class _Retrieved(NamedTuple):
    """A document that a tool retrieved, and where the tool's message stands."""

    document: Document
    message: int
    label: str

    @property
    def wish(self) -> str | None:
        return self.document.metadata.get(WISH_KEY)

    @property
    def is_in_text(self) -> bool:
        """Whether the tool's message has its text."""
        return self.wish != "adapters" or is_ruled_out(self.document.metadata)

    def source(self, index: AdapterIndex, mode: str) -> Source:
        """The document with what may be applied for it now."""
        if self.wish == "text":
            return Source(self.label, None)
        metadata = self.document.metadata
        return source_of(
            self.label,
            self.document.page_content,
            mode=mode,
            metadata=metadata,
            ids=[metadata.get("document_id") or self.document.id],
            index=index,
        )


def adapters_of(messages: Sequence[BaseMessage]) -> list[ToolAdapter]:
    """The adapters of the documents that tools retrieved last and did not mean as text only.

    They are read from the artifacts of tool messages: `Document`s, or the plain dicts that a
    checkpoint makes of them. The last turn of the conversation that has any counts.
    """
    latest = next(iter(_turns(messages)), [])
    metadata = [r.document.metadata for r in latest if r.wish != "text"]
    named = [
        ToolAdapter(name, m.get("adapter_rev")) for m in metadata if (name := usable_adapter(m))
    ]
    return list(dict.fromkeys(named))


def use_tool_documents(
    messages: Sequence[BaseMessage],
    *,
    mode: str,
    adapters: Adapters = None,
    library: AdapterLibrary | None,
) -> ToolUse | None:
    """Returns how a call in this mode uses what tools have retrieved; None if nothing is to do.

    Documents of a tool that wants adapters turn the mode into its counterpart that pins them, such
    as prag+lag for lag. Those of other tools, which say nothing, are pinned only if the mode pins;
    their text is in the conversation either way. Each adapter is looked up in the library again,
    since a conversation can be older than it: where it is gone or retrained, the document's text
    is added to the tool's message and the record says so under "fallback". Documents of earlier
    turns, if they are neither in the text nor applied, stand under "left_out". Adapters that the
    call itself pins as knowledge take the place of the documents'.

    Args:
        messages: the conversation.
        mode: asked for.
        adapters: the call's own.
        library: the engine's; with None no adapter can be used.

    Raises:
        PlanError: the mode is unknown or cannot pin adapters.
    """
    latest, *earlier = _turns(messages) or [[]]
    wish = _wish(latest, mode)
    if wish is None:
        return None
    index = AdapterIndex(library)
    sources = [r.source(index, mode) for r in latest]
    use = decide(sources, mode=mode, documents=wish, adapters=adapters)
    replaced = "knowledge" in by_slot(adapters)
    lost = [r for r, s in zip(latest, sources, strict=True) if s.adapter is None and not replaced]
    added = [r for r in lost if not r.is_in_text]
    record = {
        **use.record,
        "text": [r.label for r in latest if r.is_in_text or r in added],
        "fallback": [r.label for r in lost if r.wish == "adapters"],
    }
    left_out = [r.label for turn in earlier for r in turn if not r.is_in_text]
    if left_out:
        record["left_out"] = left_out
    return ToolUse(_with_text(messages, added), use.mode, use.adapters, record)


def _turns(messages: Sequence[BaseMessage]) -> list[list[_Retrieved]]:
    """What tools retrieved in each turn that has any, the latest turn first."""
    turns: list[list[_Retrieved]] = [[]]
    for i, message in enumerate(messages):
        if isinstance(message, HumanMessage):
            turns.append([])
        elif isinstance(message, ToolMessage) and message.status != "error":
            found = enumerate(_documents(message.artifact))
            turns[-1] += [_Retrieved(d, i, label_of(d, n)) for n, d in found]
    return [turn for turn in reversed(turns) if turn]


def _documents(artifact: Any) -> Iterator[Document]:
    """The documents in an artifact: alone, in lists, with scores, as plain or serialized dicts."""
    if isinstance(artifact, Document):
        yield artifact
    elif isinstance(artifact, Mapping):
        inner = artifact["kwargs"] if artifact.get("type") == "constructor" else artifact
        if "page_content" in inner and isinstance(inner.get("metadata"), Mapping):
            text, metadata = str(inner["page_content"]), dict(inner["metadata"])
            yield Document(text, metadata=metadata, id=inner.get("id"))
        else:
            for value in inner.values():
                yield from _documents(value)
    elif isinstance(artifact, Sequence) and not isinstance(artifact, str | bytes):
        for item in artifact:
            yield from _documents(item)


def _wish(retrieved: Sequence[_Retrieved], mode: str) -> Documents | None:
    """How the tools want their documents used, if that is anything but text."""
    wishes = {r.wish for r in retrieved}
    if None in wishes and pins_adapters(mode):
        makes = encoding_of(mode) == "dyprag"
        silent = [r for r in retrieved if r.wish is None]
        named = [r for r in silent if makes or usable_adapter(r.document.metadata)]
        wishes |= {"both"} if named else set()
    if "both" in wishes or {"text", "adapters"} <= wishes:
        return "both"
    return "adapters" if "adapters" in wishes else None


def _with_text(messages: Sequence[BaseMessage], added: Sequence[_Retrieved]) -> list[BaseMessage]:
    """The messages, those of tools with the added documents' text at their end."""
    changed = list(messages)
    for retrieved in added:
        message = changed[retrieved.message]
        text = f"{message.text}\n\n{retrieved.document.page_content}"
        changed[retrieved.message] = message.model_copy(update={"content": text})
    return changed
