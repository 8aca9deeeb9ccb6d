"""LangChain's own suites over the retriever tool."""

from __future__ import annotations

from langchain_tests.integration_tests import ToolsIntegrationTests
from langchain_tests.unit_tests import ToolsUnitTests

from lag_integrations.langchain.bm25 import BM25Retriever
from lag_integrations.langchain.retriever_tool import create_parametric_retriever_tool


class Standard:
    @property
    def tool_constructor(self):
        retriever = BM25Retriever.from_texts(["Rosa is a nurse."])
        return create_parametric_retriever_tool(retriever, "search", "Finds facts about people.")

    @property
    def tool_invoke_params_example(self):
        return {"query": "Who is Rosa?"}


class TestStandardToolUnit(Standard, ToolsUnitTests):
    pass


class TestStandardToolIntegration(Standard, ToolsIntegrationTests):
    pass
