"""Sentence-transformers models as LangChain embeddings, normalised, on this machine."""

from __future__ import annotations

from langchain_core.embeddings import Embeddings

from lag_integrations.sentence_encoder import SentenceEncoder


class LocalEmbeddings(SentenceEncoder, Embeddings):
    """Unit vectors of a sentence-transformers model, so that cosine and inner product agree.

    Args:
        model: a folder or hub id.
        revision: of a hub id.
        device: "cpu", "cuda", ...; None leaves it to sentence-transformers.
        batch_size: texts per forward pass.
    """
