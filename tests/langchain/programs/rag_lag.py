"""Answers questions about the pages: retrieval, then a model on this machine."""

from __future__ import annotations

import sys

from langchain_classic.chains import create_retrieval_chain
from langchain_classic.chains.combine_documents import create_stuff_documents_chain
from langchain_core.output_parsers import StrOutputParser
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import Runnable

import library_of_pages as pages
from lag_integrations.langchain import LAGChatModel


def make_chain(retriever: BaseRetriever) -> Runnable:
    """A question's pages, and the model's answer."""
    llm = LAGChatModel(model="lag-tiny", mode="rag+lag", max_tokens=24)
    options = {"document_prompt": pages.PAGE, "output_parser": StrOutputParser()}
    documents_chain = create_stuff_documents_chain(llm, pages.PROMPT, **options)
    return create_retrieval_chain(retriever, documents_chain)


if __name__ == "__main__":
    chain = make_chain(pages.open_store(sys.argv[1]).as_retriever(search_kwargs={"k": 1}))
    for question in sys.argv[2:]:
        print(chain.invoke({"input": question})["answer"])
