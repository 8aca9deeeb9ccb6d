"""LAG for LangChain: models, retrievers, a retriever tool and a document chain."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lag_integrations.langchain.chat_model import LAGChatModel
from lag_integrations.langchain.documents_chain import create_parametric_documents_chain
from lag_integrations.langchain.embeddings import LocalEmbeddings
from lag_integrations.langchain.llm import LAGLLM
from lag_integrations.langchain.retriever import ParametricRetriever
from lag_integrations.langchain.retriever_tool import create_parametric_retriever_tool

if TYPE_CHECKING:
    from lag_integrations.langchain.bm25 import BM25Retriever
    from lag_integrations.langchain.chroma import LAGChroma

_WITH_EXTRA = {"BM25Retriever": "bm25", "LAGChroma": "chroma"}
"""Names whose modules need the extra `chroma`."""

__all__ = [
    "LAGLLM",
    "BM25Retriever",
    "LAGChatModel",
    "LAGChroma",
    "LocalEmbeddings",
    "ParametricRetriever",
    "create_parametric_documents_chain",
    "create_parametric_retriever_tool",
]


def __getattr__(name: str) -> Any:
    if name not in _WITH_EXTRA:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_WITH_EXTRA[name]}"), name)
