"""The same program as an agent that searches by itself."""

from __future__ import annotations

from langchain_core.language_models import BaseChatModel
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import Runnable
from langchain_core.tools import create_retriever_tool
from langgraph.prebuilt import create_react_agent


def make_agent(llm: BaseChatModel, retriever: BaseRetriever, **options) -> Runnable:
    """An agent that answers from the pages it finds."""
    search = create_retriever_tool(retriever, "search", "Finds the page about a name.")
    return create_react_agent(llm, [search], **options)
