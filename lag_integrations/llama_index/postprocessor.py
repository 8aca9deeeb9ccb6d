"""A node postprocessor that says of each retrieved node whether its adapter can be applied."""

from __future__ import annotations

import asyncio
from typing import Any

from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import NodeWithScore, QueryBundle
from pydantic import Field, PrivateAttr

from lag_integrations.adapter_index import AdapterIndex
from lag_integrations.llama_index.nodes import annotate, find_adapter, index_of


class AdapterPostprocessor(BaseNodePostprocessor):
    """Writes `adapter_id`, `adapter_rev` and `adapter_status` into copies of the nodes.

    Nothing is removed, since a synthesizer without nodes answers nothing: a node without a usable
    adapter still has its text. The metadata is hidden from prompts and embeddings. Composes with
    rerankers, before or after them.

    Args:
        library: an open `AdapterLibrary`, or its folder; None trusts the nodes' metadata, and
            their status is "unchecked".
    """

    library: Any = Field(default=None, exclude=True)
    _index: AdapterIndex | None = PrivateAttr(default=None)

    @classmethod
    def class_name(cls) -> str:
        """The name in serialised forms and traces."""
        return "AdapterPostprocessor"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        if self._index is None:
            self._index = index_of(self.library)
        copies = [found.model_copy(deep=True) for found in nodes]
        for copy in copies:
            annotate(copy.node, find_adapter(copy.node, self._index))
        return copies

    async def _apostprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        return await asyncio.to_thread(self._postprocess_nodes, nodes, query_bundle)
