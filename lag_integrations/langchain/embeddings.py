"""Sentence-transformers models as LangChain embeddings, normalised, on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from langchain_core.embeddings import Embeddings

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


class LocalEmbeddings(Embeddings):
    """Unit vectors of a sentence-transformers model, so that cosine and inner product agree.

    Args:
        model: a folder or hub id.
        batch_size: texts per forward pass.
    """

    def __init__(self, model: str | Path, *, batch_size: int = 64) -> None:
        self.model = str(model)
        self.batch_size = batch_size
        self._encoder: SentenceTransformer | None = None

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """One unit vector per text."""
        vectors = self._loaded().encode(
            texts, batch_size=self.batch_size, normalize_embeddings=True, show_progress_bar=False
        )
        return [[float(x) for x in vector] for vector in vectors]

    def embed_query(self, text: str) -> list[float]:
        """The query's unit vector."""
        return self.embed_documents([text])[0]

    def _loaded(self) -> SentenceTransformer:
        if self._encoder is None:
            from sentence_transformers import SentenceTransformer

            self._encoder = SentenceTransformer(self.model)
        return self._encoder
