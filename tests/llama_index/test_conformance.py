"""LAGLLM on the shipped model passes the conformance suite."""

from __future__ import annotations

from typing import ClassVar

import pytest

from lag_engine import tiny
from lag_integrations.llama_index import LAGLLM
from lag_integrations.llama_index.messages import to_engine_messages
from tests.llama_index.conformance import LLMConformance


class TestLAGLLM(LLMConformance):
    question = next(q.prompt for q in tiny.questions() if q.task == "dialogue")

    long_call: ClassVar = {"max_tokens": 100, "temperature": 5.0, "seed": 1}

    @pytest.fixture
    def llm(self):
        return LAGLLM(model="lag-tiny", max_tokens=24)

    @pytest.fixture
    def tool_llm(self, llm):
        return llm.with_changes(max_tokens=64)

    @pytest.fixture
    def broken_llm(self, make_llm, scripted):
        return make_llm(scripted(RuntimeError("out of memory")))

    @pytest.fixture
    def structured_llm(self, llm):
        return llm.with_changes(max_tokens=64)

    def is_busy(self, llm):
        return not llm.engine._runtime._scheduler.is_idle

    def count_prompt_tokens(self, llm, messages):
        return len(llm.engine.tokenize_messages(to_engine_messages(messages)))
