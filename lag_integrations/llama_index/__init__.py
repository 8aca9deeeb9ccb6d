"""LAG for LlamaIndex: an LLM, a synthesizer and the parts of parametric retrieval.

from llama_index.core import Document, VectorStoreIndex

from lag_engine import tiny
from lag_integrations.llama_index import LAGLLM, LocalEmbedding, ParametricSynthesizer

documents = [Document(text=d.text, doc_id=d.id) for d in tiny.documents()]
embedding = LocalEmbedding(tiny.embedder_path())
index = VectorStoreIndex.from_documents(documents, embed_model=embedding)

llm = LAGLLM(model="lag-tiny", mode="prag+lag", max_tokens=24)
query_engine = index.as_query_engine(
llm=llm, response_synthesizer=ParametricSynthesizer(llm), similarity_top_k=1
)
response = query_engine.query("What does Rosa Sinclair do for a living?")
print(response, response.metadata["lag_documents"]["adapters"])
"""

from __future__ import annotations

from lag_integrations.llama_index.embedding import LocalEmbedding
from lag_integrations.llama_index.encoder import AdapterEncoder
from lag_integrations.llama_index.events import LAGRoutingEvent
from lag_integrations.llama_index.llm import LAGLLM
from lag_integrations.llama_index.postprocessor import AdapterPostprocessor
from lag_integrations.llama_index.synthesizer import ParametricSynthesizer

__all__ = [
    "LAGLLM",
    "AdapterEncoder",
    "AdapterPostprocessor",
    "LAGRoutingEvent",
    "LocalEmbedding",
    "ParametricSynthesizer",
]
