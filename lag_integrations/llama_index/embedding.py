"""Sentence-transformers models as a LlamaIndex embedding, normalised, on this machine."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from llama_index.core.base.embeddings.base import BaseEmbedding, Embedding
from pydantic import PrivateAttr

from lag_integrations.embedding_model import EmbeddingModel
from lag_integrations.sentence_encoder import SentenceEncoder


class LocalEmbedding(BaseEmbedding):
    """Unit vectors of a sentence-transformers model, static ones included.

    The model is loaded at the first use. Its own prompts for queries and documents are used, if it
    has any.

    Args:
        model_name: a folder or hub id.
        revision: of a hub id.
        device: "cpu", "cuda", ...; None leaves it to sentence-transformers.
        embed_batch_size: texts per forward pass.
        **kwargs: those of every LlamaIndex embedding.
    """

    revision: str | None = None
    device: str | None = None
    _encoder: SentenceEncoder = PrivateAttr()

    def __init__(self, model_name: str | Path, **kwargs: Any) -> None:
        super().__init__(model_name=str(model_name), **kwargs)
        self._encoder = SentenceEncoder(
            self.model_name,
            revision=self.revision,
            device=self.device,
            batch_size=self.embed_batch_size,
        )

    @classmethod
    def class_name(cls) -> str:
        """The name in serialised forms and traces."""
        return "LocalEmbedding"

    @property
    def embedding_model(self) -> EmbeddingModel:
        """Its name and a digest of its files, which a collection keeps beside its vectors."""
        return self._encoder.embedding_model

    def _get_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        return self._encoder.embed_documents(texts)

    def _get_text_embedding(self, text: str) -> Embedding:
        return self._encoder.embed_documents([text])[0]

    def _get_query_embedding(self, query: str) -> Embedding:
        return self._encoder.embed_query(query)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        return await asyncio.to_thread(self._get_text_embeddings, texts)

    async def _aget_text_embedding(self, text: str) -> Embedding:
        return await asyncio.to_thread(self._get_text_embedding, text)

    async def _aget_query_embedding(self, query: str) -> Embedding:
        return await asyncio.to_thread(self._get_query_embedding, query)
