"""LAG for LlamaIndex: an LLM, a synthesizer and the parts of parametric retrieval."""

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
