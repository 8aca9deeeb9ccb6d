"""A LlamaIndex retrieval program."""

from __future__ import annotations

from llama_index.core import PromptTemplate, VectorStoreIndex
from llama_index.core.query_engine import RetrieverQueryEngine

from lag_integrations.llama_index import LAGLLM, ParametricSynthesizer

PROMPT = PromptTemplate("Text: {context_str}\n\n{query_str}")


def make_query_engine(index: VectorStoreIndex, model: str) -> RetrieverQueryEngine:
    llm = LAGLLM(model=model, mode="rag+lag", max_tokens=24)
    retriever = index.as_retriever(similarity_top_k=1)
    query_engine = RetrieverQueryEngine(retriever, ParametricSynthesizer(llm, documents="adapters"))
    query_engine.update_prompts({"response_synthesizer:text_qa_template": PROMPT})
    return query_engine
