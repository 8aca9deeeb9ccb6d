"""LAG for LangChain: a chat model, a retriever and a document chain."""

from __future__ import annotations

from lag_integrations.langchain.chat_model import LAGChatModel
from lag_integrations.langchain.documents_chain import create_parametric_documents_chain
from lag_integrations.langchain.embeddings import LocalEmbeddings
from lag_integrations.langchain.llm import LAGLLM
from lag_integrations.langchain.retriever import ParametricRetriever

__all__ = [
    "LAGLLM",
    "LAGChatModel",
    "LocalEmbeddings",
    "ParametricRetriever",
    "create_parametric_documents_chain",
]
