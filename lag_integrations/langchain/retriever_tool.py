"""Retrieval as a tool: an agent's documents reach the model as text, as adapters or as both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from langchain_core.callbacks import Callbacks
from langchain_core.documents import Document
from langchain_core.prompts import (
    BasePromptTemplate,
    PromptTemplate,
    aformat_document,
    format_document,
)
from langchain_core.retrievers import BaseRetriever
from langchain_core.tools import BaseTool, StructuredTool
from langchain_core.tools.retriever import RetrieverInput

from lag_integrations.adapter_index import is_ruled_out
from lag_integrations.langchain.labels import title_of
from lag_integrations.langchain.tool_documents import WISH_KEY

DOCUMENT_PROMPT = PromptTemplate.from_template("{page_content}")


def create_parametric_retriever_tool(
    retriever: BaseRetriever,
    name: str,
    description: str,
    *,
    documents: Literal["text", "adapters", "both"] = "adapters",
    document_prompt: BasePromptTemplate[str] = DOCUMENT_PROMPT,
    document_separator: str = "\n\n",
    note_template: str = "Found: {titles}.",
) -> BaseTool:
    """Returns a tool to use in place of `create_retriever_tool`.

    The tool message's artifact is always the list of documents. Its content, which is all that the
    model reads, is

    - "text": the documents' text, as from the stock tool; their adapters are not applied;
    - "adapters": a note that names what was found, and then only the text of those documents whose
      adapter a `ParametricRetriever` has ruled out; a `LAGChatModel` that is given the message
      applies the others, and reads the text of those that it finds no adapter for;
    - "both": the documents' text, and a `LAGChatModel` applies their adapters too.

    What became of each document stands in the answer's `response_metadata["lag_documents"]`.

    Args:
        retriever: any; a document's adapter is the one that its metadata or the model's library
            names.
        name: of the tool, for the model.
        description: for the model.
        documents: how they reach the model.
        document_prompt: formats one document.
        document_separator: between formatted documents.
        note_template: of the note; `{titles}` are the documents' titles.
    """

    def as_text(found: Sequence[Document]) -> list[Document]:
        return [d for d in found if documents != "adapters" or is_ruled_out(d.metadata)]

    def content(found: Sequence[Document], texts: Sequence[str]) -> str:
        if documents != "adapters":
            return document_separator.join(texts)
        titles = ", ".join(dict.fromkeys(title_of(d, i) for i, d in enumerate(found)))
        note = note_template.format(titles=titles or "nothing")
        return document_separator.join([note, *texts])

    def search(query: str, callbacks: Callbacks = None) -> tuple[str, list[Document]]:
        found = _marked(retriever.invoke(query, {"callbacks": callbacks}), documents)
        texts = [format_document(d, document_prompt) for d in as_text(found)]
        return content(found, texts), found

    async def asearch(query: str, callbacks: Callbacks = None) -> tuple[str, list[Document]]:
        found = _marked(await retriever.ainvoke(query, {"callbacks": callbacks}), documents)
        texts = [await aformat_document(d, document_prompt) for d in as_text(found)]
        return content(found, texts), found

    return StructuredTool(
        name=name,
        description=description,
        func=search,
        coroutine=asearch,
        args_schema=RetrieverInput,
        response_format="content_and_artifact",
    )


def _marked(found: Sequence[Document], documents: str) -> list[Document]:
    """Copies that say how they should be used, for whoever reads the artifact later."""
    mark: dict[str, Any] = {WISH_KEY: documents}
    return [d.model_copy(update={"metadata": {**d.metadata, **mark}}) for d in found]
