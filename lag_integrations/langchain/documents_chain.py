"""The document chain of parametric RAG: documents reach the model as text, adapters or both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from langchain_core.documents import Document
from langchain_core.output_parsers import BaseOutputParser
from langchain_core.prompts import BasePromptTemplate, PromptTemplate, format_document
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda, RunnablePassthrough

from lag_engine import PlanError
from lag_integrations.adapter_index import AdapterIndex
from lag_integrations.document_use import DocumentUse, decide, source_of
from lag_integrations.engines import get_engine
from lag_integrations.langchain.config import configured
from lag_integrations.langchain.labels import label_of
from lag_integrations.langchain.model_inside import ModelInside, bind_model, find_model

DOCUMENT_PROMPT = PromptTemplate.from_template("{page_content}")


def create_parametric_documents_chain(
    llm: Runnable[Any, Any],
    prompt: BasePromptTemplate[Any],
    *,
    documents: Literal["text", "adapters", "both"] | None = None,
    output_parser: BaseOutputParser[Any] | None = None,
    document_prompt: BasePromptTemplate[Any] | None = None,
    document_separator: str = "\n\n",
    document_variable_name: str = "context",
    context_template: str = "{context}",
) -> Runnable[dict[str, Any], Any]:
    """Returns a chain to use in place of `create_stuff_documents_chain`.

    The answer is an `AIMessage`, so that routing and sources are not lost; pass a `StrOutputParser`
    for a string. Its `response_metadata["lag_documents"]` says what became of the documents. A
    document's adapter is the one that its metadata or the model's library names, if it is in that
    library as it was indexed; a `ParametricRetriever` is welcome and not needed. A document whose
    adapter cannot be used (none trained, not in the library, stale) goes into the prompt as text
    and stands under "fallback"; if no document's adapter can be used, the mode becomes its text
    counterpart, such as rag+lag for prag+lag.

    The mode is the one that `bind` has set, else the config's `lag_mode`, else the model's, turned
    into its counterpart that uses documents as `documents` says.

    Args:
        llm: a `LAGChatModel` or `LAGLLM`, with or without tools, a schema or other arguments bound.
        prompt: as for the stock chain; has the variable `document_variable_name`.
        documents: how they reach the model; None leaves it to the mode.
        output_parser: of the answer; None passes the message on.
        document_prompt: formats one document; None takes its text.
        document_separator: between formatted documents.
        document_variable_name: of the documents in the input, and of their text in the prompt.
        context_template: frames the text before it enters the prompt, if there is any, so that a
            prompt without documents has no empty frame.

    Raises:
        PlanError: there is no LAG model in `llm`, the prompt or the frame has no place for the
            text, or (when called) the mode cannot use documents so.
        PromptTooLongError: when called, the text does not fit the model's context; it is never cut.
    """
    inside = find_model(llm)
    _require_place(document_variable_name, prompt.input_variables, "the prompt")
    _require_place("context", [context_template], "context_template")
    formatter = document_prompt or DOCUMENT_PROMPT

    def format_documents(found: Sequence[Document]) -> str:
        text = document_separator.join(format_document(d, formatter) for d in found)
        return context_template.replace("{context}", text) if text else ""

    def answer(inputs: dict[str, Any], config: RunnableConfig) -> Runnable[Any, Any]:
        found: Sequence[Document] = inputs[document_variable_name]
        use = _decide(inside, found, documents, config)
        text = format_documents([found[i] for i in use.as_text])
        fill = RunnablePassthrough.assign(**{document_variable_name: lambda _: text})
        pinned = {"mode": use.mode, "adapters": use.adapters, "lag_documents": use.record}
        return fill | prompt | bind_model(llm, **pinned)

    chain: Runnable[dict[str, Any], Any] = RunnableLambda(answer)
    if output_parser is not None:
        chain = chain | output_parser
    return chain.with_config(run_name="parametric_documents_chain")


def _decide(
    inside: ModelInside,
    found: Sequence[Document],
    documents: Literal["text", "adapters", "both"] | None,
    config: RunnableConfig,
) -> DocumentUse:
    """What the model's fields, the configs and what is bound to it, in that order, make of them."""
    model = inside.model
    settings: dict[str, Any] = {
        "mode": model.mode,
        "adapters": model.adapters,
        **configured(inside.config),
        **configured(config),
        **{name: inside.bound[name] for name in ("mode", "adapters") if name in inside.bound},
    }
    name = str(inside.bound.get("model") or model.model)
    index = AdapterIndex(get_engine(model.engine_key.for_model(name)).library)
    sources = [
        source_of(
            label_of(document, i),
            document.page_content,
            mode=settings["mode"],
            metadata=document.metadata,
            ids=[document.metadata.get("document_id") or document.id],
            index=index,
        )
        for i, document in enumerate(found)
    ]
    return decide(sources, documents=documents, **settings)


def _require_place(name: str, places: Sequence[str], where: str) -> None:
    if not any(name in place for place in places):
        raise PlanError(
            f"Expected a place for the documents' text, {{{name}}}, in {where}",
            f"found {', '.join(map(repr, places)) or 'no variables'}",
            "Add it: documents whose adapter cannot be used go there too",
        )
