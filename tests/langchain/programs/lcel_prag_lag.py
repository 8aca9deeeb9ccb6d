"""The same program as a pipe."""

from __future__ import annotations

from langchain_core.output_parsers import StrOutputParser
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import Runnable, RunnablePassthrough

import library_of_pages as pages
from lag_integrations.langchain import LAGChatModel, create_parametric_documents_chain


def make_chain(retriever: BaseRetriever) -> Runnable:
    """A question's pages, and the model's answer."""
    llm = LAGChatModel(model="lag-tiny", mode="rag+lag", max_tokens=24)
    found = {"context": retriever, "input": RunnablePassthrough()}
    answer = create_parametric_documents_chain(llm, pages.PROMPT, documents="adapters")
    return found | answer | StrOutputParser()
