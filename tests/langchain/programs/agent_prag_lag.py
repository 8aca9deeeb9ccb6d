"""The same program as an agent that searches by itself."""

from __future__ import annotations

from langchain_core.language_models import BaseChatModel
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import Runnable
from langgraph.prebuilt import create_react_agent

from lag_integrations.langchain import create_parametric_retriever_tool


def make_agent(llm: BaseChatModel, retriever: BaseRetriever, **options) -> Runnable:
    """An agent that answers from the pages it finds."""
    search = create_parametric_retriever_tool(retriever, "search", "Finds the page about a name.")
    return create_react_agent(llm, [search], **options)
