"""Sentence-transformers models on this machine, behind any framework's embeddings."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lag_integrations.embedding_model import EmbeddingModel

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

READ = (".safetensors", ".bin", ".json", ".txt", ".model")
"""Files that decide about a vector; a model card does not."""


class SentenceEncoder:
    """Makes unit vectors, so that cosine and inner product agree.

    The model is loaded at the first use. Its own prompts for queries and documents are used, if it
    has any.

    Args:
        model: a folder or hub id.
        revision: of a hub id.
        device: "cpu", "cuda", ...; None leaves it to sentence-transformers.
        batch_size: texts per forward pass.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        revision: str | None = None,
        device: str | None = None,
        batch_size: int = 64,
    ) -> None:
        self.model = str(model)
        self.revision = revision
        self.device = device
        self.batch_size = batch_size
        self._loading = threading.Lock()

    def embed_documents(self, texts: Sequence[str]) -> list[list[float]]:
        """One unit vector per text."""
        if not texts:
            return []
        vectors = self._loaded.encode_document(
            list(texts),
            batch_size=self.batch_size,
            normalize_embeddings=True,
            show_progress_bar=False,
        )
        return [_floats(vector) for vector in vectors]

    def embed_query(self, text: str) -> list[float]:
        """The query's unit vector."""
        return _floats(
            self._loaded.encode_query(text, normalize_embeddings=True, show_progress_bar=False)
        )

    @cached_property
    def embedding_model(self) -> EmbeddingModel:
        """Its name and a digest of its files, which a collection keeps beside its vectors."""
        folder = Path(self.model)
        if folder.is_dir():
            return EmbeddingModel(folder.resolve().name, _digest(folder))
        from huggingface_hub import snapshot_download

        _ = self._loaded  # so that its files are here
        files = snapshot_download(self.model, revision=self.revision, local_files_only=True)
        return EmbeddingModel(self.model, _digest(Path(files)))

    @cached_property
    def _encoder(self) -> SentenceTransformer:
        from sentence_transformers import SentenceTransformer

        return SentenceTransformer(self.model, revision=self.revision, device=self.device)

    @property
    def _loaded(self) -> SentenceTransformer:
        with self._loading:
            return self._encoder


def _floats(vector: Any) -> list[float]:
    return [float(x) for x in vector]


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix in READ:
            digest.update(f"{path.relative_to(folder).as_posix()}\0".encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]
