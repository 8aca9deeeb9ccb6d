"""The document chain of parametric RAG: documents reach the model as text, adapters or both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from langchain_core.documents import Document
from langchain_core.output_parsers import BaseOutputParser
from langchain_core.prompts import BasePromptTemplate, PromptTemplate, format_document
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda, RunnablePassthrough
from langchain_core.runnables.base import RunnableBindingBase

from lag_engine import PlanError
from lag_integrations.adapter_index import usable_adapter
from lag_integrations.document_use import Source, decide
from lag_integrations.langchain.chat_model import LAGChatModel
from lag_integrations.langchain.config import configured
from lag_integrations.langchain.labels import label_of

DOCUMENT_PROMPT = PromptTemplate.from_template("{page_content}")


def create_parametric_documents_chain(
    llm: Runnable[Any, Any],
    prompt: BasePromptTemplate[Any],
    *,
    documents: Literal["text", "adapters", "both"] | None = None,
    output_parser: BaseOutputParser[Any] | None = None,
    document_prompt: BasePromptTemplate[Any] = DOCUMENT_PROMPT,
    document_separator: str = "\n\n",
    document_variable_name: str = "context",
    context_template: str = "{context}",
) -> Runnable[dict[str, Any], Any]:
    """Returns a chain to use in place of `create_stuff_documents_chain`.

    The answer is an `AIMessage`, so that routing and sources are not lost; pass a `StrOutputParser`
    for a string. Its `response_metadata["lag_documents"]` says what became of the documents. One
    whose adapter cannot be used (none trained, not in the library, stale) goes into the prompt as
    text and stands under "fallback"; if no document's adapter can be used, the mode becomes its
    text counterpart, such as rag+lag for prag+lag.

    The mode is the call's (`config={"configurable": {"lag_mode": ...}}`), else the model's, turned
    into its counterpart that uses documents as `documents` says.

    Args:
        llm: a `LAGChatModel`, bound or not.
        prompt: as for the stock chain; has the variable `document_variable_name`.
        documents: how they reach the model; None leaves it to the mode.
        output_parser: of the answer; None passes the message on.
        document_prompt: formats one document.
        document_separator: between formatted documents.
        document_variable_name: of the documents in the input, and of their text in the prompt.
        context_template: frames the text before it enters the prompt, if there is any, so that a
            prompt without documents has no empty frame.

    Raises:
        PlanError: `llm` is not a LAG model, or (when called) its mode cannot use documents so.
    """
    settings = _settings(llm)

    def format_documents(found: Sequence[Document]) -> str:
        text = document_separator.join(format_document(d, document_prompt) for d in found)
        return context_template.format(context=text) if text else ""

    def answer(inputs: dict[str, Any], config: RunnableConfig) -> Runnable[Any, Any]:
        found: Sequence[Document] = inputs[document_variable_name]
        sources = [Source(label_of(d, i), usable_adapter(d.metadata)) for i, d in enumerate(found)]
        use = decide(sources, documents=documents, **{**settings, **configured(config)})
        text = format_documents([found[i] for i in use.as_text])
        fill = RunnablePassthrough.assign(**{document_variable_name: lambda _: text})
        pinned = {} if use.adapters is None else {"adapters": use.adapters}
        return fill | prompt | llm.bind(mode=use.mode, lag_documents=use.record, **pinned)

    chain: Runnable[dict[str, Any], Any] = RunnableLambda(answer)
    if output_parser is not None:
        chain = chain | output_parser
    return chain.with_config(run_name="parametric_documents_chain")


def _settings(llm: Runnable[Any, Any]) -> dict[str, Any]:
    """The mode and adapters of the model, however deeply it is bound."""
    if isinstance(llm, LAGChatModel):
        return {"mode": llm.mode, "adapters": llm.adapters}
    if isinstance(llm, RunnableBindingBase):
        bound = {name: llm.kwargs[name] for name in ("mode", "adapters") if name in llm.kwargs}
        return {**_settings(llm.bound), **bound}
    raise PlanError(
        "Expected a LAGChatModel, which alone can apply document adapters",
        f"found a {type(llm).__name__}",
        "Use create_stuff_documents_chain for other models",
    )
