"""An ingestion transform that encodes nodes into adapters, beside splitting and embedding them."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from llama_index.core.schema import BaseNode, MetadataMode, TransformComponent
from pydantic import Field

from lag_engine import DocumentError, Passage
from lag_integrations.adapter_index import Finding, revision_of
from lag_integrations.llama_index.nodes import annotate

if TYPE_CHECKING:
    from lag_engine import AdapterInfo


class PassageEncoder(Protocol):
    """What makes adapters of passages, such as `PRAG`."""

    def encode(self, passages: Sequence[Passage]) -> list[AdapterInfo]:
        """Each passage's adapter, in the order of the passages; current ones are left alone."""

    def revision(self, passage: Passage) -> str:
        """What the passage's adapter depends on, as a short hash."""


def content_id(node: BaseNode) -> str:
    """A passage id of the node's title and text: the same text has one adapter, wherever it is."""
    content = f"{_title(node)}\n{_text(node)}"
    return hashlib.sha256(content.encode()).hexdigest()[:16]


class AdapterEncoder(TransformComponent):
    """Gives every node an adapter, and writes `adapter_id` and `adapter_rev` into its metadata.

    Put it behind the splitter of an `IngestionPipeline`. Running again encodes only what is new,
    with or without the pipeline's cache. The metadata is hidden from prompts and embeddings.

        library = AdapterLibrary.open("my-adapters")  # for writing; the LLM opened it read-only
        encoder = PRAG.from_engine(llm.engine, library, settings=PRAGSettings(epochs=10))
        pipeline = IngestionPipeline([splitter, AdapterEncoder(encoder=encoder), embedding])

    Args:
        encoder: a `PRAG`, or another with its methods; its library is the one to answer with.
        passage_id: names a node's passage. By default by content, because node ids of most
            splitters are new at every run; with an id that outlives changes of the text, such as
            `lambda node: node.ref_doc_id` for unsplit documents, the new adapter replaces the old.

    Raises:
        DocumentError: (when called) two different texts have one passage id.
    """

    encoder: Any = Field(exclude=True)
    passage_id: Callable[[BaseNode], str] = Field(default=content_id, exclude=True)

    @classmethod
    def class_name(cls) -> str:
        """The name in serialised forms and in the pipeline's cache keys."""
        return "AdapterEncoder"

    def to_dict(self, **kwargs: Any) -> dict[str, Any]:
        """Tells encoders apart, also where the pipeline's cache asks for what was transformed."""
        encoder: PassageEncoder = self.encoder
        probe = Passage("probe", "What another encoder would make another adapter of.")
        return {**super().to_dict(**kwargs), "encoder": encoder.revision(probe)}

    def __call__(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        """Encodes the nodes' passages and returns the nodes, in place."""
        encoder: PassageEncoder = self.encoder
        wanted = [self._passage(node) for node in nodes]
        passages = _distinct(wanted)
        infos = dict(zip(passages, encoder.encode(list(passages.values())), strict=True))
        for node, passage in zip(nodes, wanted, strict=True):
            info = infos[passage.id]
            annotate(node, Finding("current", info.name, revision_of(info)))
            del node.metadata["adapter_status"]  # that is for the one who retrieves to say
        return nodes

    async def acall(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        """As calling it, without blocking the event loop."""
        return await asyncio.to_thread(self.__call__, nodes, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        """Refuses to go to another process, where the model and the library's lock are not."""
        raise DocumentError(
            "Expected an AdapterEncoder to stay in its process",
            "it was about to be sent to another, as a pipeline with `num_workers` does",
            "Run the pipeline without `num_workers`; passages are trained in groups anyway",
        )

    def _passage(self, node: BaseNode) -> Passage:
        return Passage(self.passage_id(node), _text(node), _title(node))


def _distinct(passages: Sequence[Passage]) -> dict[str, Passage]:
    distinct: dict[str, Passage] = {}
    for passage in passages:
        known = distinct.setdefault(passage.id, passage)
        if known != passage:
            raise DocumentError(
                "Expected one text for each passage id",
                f"found two for {passage.id!r}: {known.text[:40]!r} and {passage.text[:40]!r}",
                "Give each node of a document its own, or leave `passage_id` out",
            )
    return distinct


def _text(node: BaseNode) -> str:
    return node.get_content(metadata_mode=MetadataMode.NONE)


def _title(node: BaseNode) -> str:
    return str(node.metadata.get("title") or "")
