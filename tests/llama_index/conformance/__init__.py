"""A conformance suite for LlamaIndex LLMs: what the framework's parts rely on, as tests.

Subclass `LLMConformance`, give it an `llm` fixture, and set the switches to what the class under
test claims. It needs `llama-index-core`, `pytest` and `pytest-asyncio`, and an LLM that answers
greedily, so that equal questions have equal answers.

    class TestMyLLM(LLMConformance):
        @pytest.fixture
        def llm(self):
            return MyLLM(temperature=0)
"""

from __future__ import annotations

from tests.llama_index.conformance.calls import Calls, Prompts
from tests.llama_index.conformance.contract import Contract
from tests.llama_index.conformance.faults import Events, Faults
from tests.llama_index.conformance.outputs import Structured, Tools


class LLMConformance(Contract, Prompts, Calls, Events, Faults, Structured, Tools):
    """All of it."""
