"""ParametricSynthesizer: retrieved nodes reach the model as text, as adapters, or as both."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator, Sequence
from typing import Any, Literal, NamedTuple

from llama_index.core import Settings
from llama_index.core.base.llms.types import ChatResponse, CompletionResponse
from llama_index.core.base.response.schema import RESPONSE_TYPE
from llama_index.core.callbacks import CallbackManager
from llama_index.core.llms import LLM
from llama_index.core.prompts import BasePromptTemplate
from llama_index.core.prompts.default_prompt_selectors import DEFAULT_TEXT_QA_PROMPT_SEL
from llama_index.core.prompts.default_prompts import DEFAULT_SIMPLE_INPUT_PROMPT
from llama_index.core.prompts.mixin import PromptDictType
from llama_index.core.response_synthesizers import BaseSynthesizer
from llama_index.core.schema import NodeWithScore, QueryType
from llama_index.core.types import RESPONSE_TEXT_TYPE
from pydantic import BaseModel

from lag_engine import LagError, PlanError
from lag_integrations.adapter_index import AdapterIndex
from lag_integrations.document_use import DocumentUse, Source, decide
from lag_integrations.llama_index.llm import LAGLLM
from lag_integrations.llama_index.nodes import index_of, source_of_node
from lag_integrations.llama_index.structured import guided, parsed

Documents = Literal["text", "adapters", "both"]


class Request(NamedTuple):
    """One query on its way: how its nodes are used, and what the response's metadata will tell."""

    use: DocumentUse
    metadata: dict[str, Any]


class ParametricSynthesizer(BaseSynthesizer):
    """Synthesizes as core does, but knows which nodes it has, and so which adapters to pin.

    `response.source_nodes` are the nodes as they came, whatever became of them. Beside core's entry
    for each node, `response.metadata` has "lag_documents", which says how each was used, and
    "lag_routing", which says what was applied (of a stream, once it has ended). A node whose
    adapter cannot be used (none, not in the library, stale) goes into the prompt as text and stands
    under "fallback"; if no node's adapter can be used, the mode becomes its text counterpart.

    All text goes into one prompt; what the model cannot read whole is an error, never cut.

    Give `index.as_query_engine(llm=llm, response_synthesizer=...)` the LLM as well: core asks for
    one, by default OpenAI's, before it looks at the synthesizer.

    Args:
        llm: a `LAGLLM`; None takes `Settings.llm`. It is not changed: a callback manager given to
            the synthesizer is heard by a copy, and only if the LLM has none of its own.
        documents: how nodes reach the model; None leaves it to the LLM's mode.
        text_qa_template: the prompt with text, from `context_str` and `query_str`.
        simple_template: the prompt where no text is used, from `query_str`.
        streaming: responses come piece by piece.
        output_cls: the answer is an instance of it, by guided decoding.
        callback_manager: hears of the synthesis.
        empty_response: the answer where no node was retrieved; the LLM is not asked then.

    Raises:
        PlanError: `llm` is not a `LAGLLM`.
        LagError: both `streaming` and `output_cls` are given.
    """

    def __init__(
        self,
        llm: LLM | None = None,
        *,
        documents: Documents | None = None,
        text_qa_template: BasePromptTemplate | None = None,
        simple_template: BasePromptTemplate | None = None,
        streaming: bool = False,
        output_cls: type[BaseModel] | None = None,
        callback_manager: CallbackManager | None = None,
        empty_response: str | None = None,
    ) -> None:
        if streaming and output_cls is not None:
            raise LagError(
                "Expected either `streaming` or `output_cls`",
                "found both",
                "An object is whole or nothing; use `llm.stream_structured_predict` for parts",
            )
        self._lag = _heard(_checked(llm or Settings.llm), callback_manager)
        super().__init__(
            llm=self._lag,
            streaming=streaming,
            output_cls=output_cls,
            empty_response=empty_response,
        )
        self._callback_manager = callback_manager or Settings.callback_manager
        self._documents = documents
        self._index: AdapterIndex | None = None
        self._text_qa_template = text_qa_template or DEFAULT_TEXT_QA_PROMPT_SEL
        self._simple_template = simple_template or DEFAULT_SIMPLE_INPUT_PROMPT

    @property
    def callback_manager(self) -> CallbackManager:
        """Hears of the synthesis; the LLM's own manager is left as it is."""
        return self._callback_manager

    @callback_manager.setter
    def callback_manager(self, callback_manager: CallbackManager) -> None:
        self._callback_manager = callback_manager
        self._llm = self._lag = _heard(self._lag, callback_manager)

    def synthesize(
        self,
        query: QueryType,
        nodes: list[NodeWithScore],
        additional_source_nodes: Sequence[NodeWithScore] | None = None,
        **response_kwargs: Any,
    ) -> RESPONSE_TYPE:
        """Answers the query from the nodes."""
        request = self._request(nodes)
        response = super().synthesize(
            query, nodes, additional_source_nodes, request=request, **response_kwargs
        )
        return _with_metadata(response, request)

    async def asynthesize(
        self,
        query: QueryType,
        nodes: list[NodeWithScore],
        additional_source_nodes: Sequence[NodeWithScore] | None = None,
        **response_kwargs: Any,
    ) -> RESPONSE_TYPE:
        """As `synthesize`, without blocking the event loop."""
        request = await asyncio.to_thread(self._request, nodes)
        response = await super().asynthesize(
            query, nodes, additional_source_nodes, request=request, **response_kwargs
        )
        return _with_metadata(response, request)

    def get_response(
        self,
        query_str: str,
        text_chunks: Sequence[str],
        request: Request | None = None,
        **response_kwargs: Any,
    ) -> RESPONSE_TEXT_TYPE:
        """The answer from the chunks; without a `request`, all of them are used as text."""
        request = request or self._text_request(text_chunks)
        args = (self._prompt(query_str, text_chunks, request, response_kwargs),)
        options = self._options(request)
        if self._streaming:
            return _tokens(self._method("stream_")(*args, **options), request)
        return self._answer(self._method("")(*args, **options), request)

    async def aget_response(
        self,
        query_str: str,
        text_chunks: Sequence[str],
        request: Request | None = None,
        **response_kwargs: Any,
    ) -> RESPONSE_TEXT_TYPE:
        """As `get_response`, without blocking the event loop."""
        request = request or self._text_request(text_chunks)
        args = (self._prompt(query_str, text_chunks, request, response_kwargs),)
        options = self._options(request)
        if self._streaming:
            return _atokens(await self._method("astream_")(*args, **options), request)
        return self._answer(await self._method("a")(*args, **options), request)

    def _get_prompts(self) -> PromptDictType:
        return {
            "text_qa_template": self._text_qa_template,
            "simple_template": self._simple_template,
        }

    def _update_prompts(self, prompts: PromptDictType) -> None:
        self._text_qa_template = prompts.get("text_qa_template", self._text_qa_template)
        self._simple_template = prompts.get("simple_template", self._simple_template)

    def _request(self, nodes: Sequence[NodeWithScore]) -> Request:
        if not nodes:
            return Request(self._decide([]), {})
        if self._index is None:
            self._index = index_of(self._lag.engine.library)
        index, mode = self._index, self._lag.mode
        sources = [source_of_node(found.node, index, mode=mode) for found in nodes]
        return Request(self._decide(sources), {})

    def _text_request(self, chunks: Sequence[str]) -> Request:
        return Request(self._decide([Source(str(i), None) for i in range(len(chunks))]), {})

    def _decide(self, sources: Sequence[Source]) -> DocumentUse:
        llm = self._lag
        return decide(sources, mode=llm.mode, documents=self._documents, adapters=llm.adapters)

    def _prompt(
        self, query_str: str, chunks: Sequence[str], request: Request, more: dict[str, Any]
    ) -> Any:
        """Messages for a model with a chat template, text for another."""
        text = "\n\n".join(chunks[i] for i in request.use.as_text)
        template = self._text_qa_template if text else self._simple_template
        arguments = {**more, "query_str": query_str, **({"context_str": text} if text else {})}
        llm = self._lag
        form = llm._get_messages if llm.metadata.is_chat_model else llm._get_prompt  # noqa: SLF001
        return form(template, **arguments)

    def _options(self, request: Request) -> dict[str, Any]:
        use = request.use
        options: dict[str, Any] = {"mode": use.mode, "lag_documents": use.record}
        if use.adapters is not None:
            options["adapters"] = use.adapters
        if not self._lag.metadata.is_chat_model:
            options["formatted"] = True
        return guided(self._output_cls, options) if self._output_cls else options

    def _method(self, prefix: str) -> Any:
        is_chat = self._lag.metadata.is_chat_model
        return getattr(self._lag, f"{prefix}{'chat' if is_chat else 'complete'}")

    def _answer(
        self, response: ChatResponse | CompletionResponse, request: Request
    ) -> RESPONSE_TEXT_TYPE:
        _tell(response, request)
        if self._output_cls is not None:
            return parsed(self._output_cls, _text(response), response.raw)
        return self._lag._parse_output(_text(response))  # noqa: SLF001


def _checked(llm: LLM) -> LAGLLM:
    if isinstance(llm, LAGLLM):
        return llm
    raise PlanError(
        "Expected a LAGLLM, which alone can apply the adapters of documents",
        f"found a {type(llm).__name__}",
        "Pass `llm=LAGLLM(...)`, with `output_cls=` for structured answers; other models have "
        "core's synthesizers",
    )


def _heard(llm: LAGLLM, manager: CallbackManager | None) -> LAGLLM:
    """The LLM itself if it has listeners or there are none to add; else a copy that has them."""
    if manager is None or not manager.handlers or llm.callback_manager.handlers:
        return llm
    return llm.with_changes(callback_manager=manager)


def _text(response: ChatResponse | CompletionResponse) -> str:
    if isinstance(response, CompletionResponse):
        return response.text
    return response.message.content or ""


def _tell(response: ChatResponse | CompletionResponse, request: Request) -> None:
    if response.raw is not None:
        request.metadata["lag_routing"] = response.raw["lag_routing"]


def _tokens(responses: Any, request: Request) -> Generator[str, None, None]:
    for response in responses:
        _tell(response, request)
        yield response.delta or ""


async def _atokens(responses: Any, request: Request) -> AsyncGenerator[str, None]:
    async for response in responses:
        _tell(response, request)
        yield response.delta or ""


def _with_metadata(response: RESPONSE_TYPE, request: Request) -> RESPONSE_TYPE:
    """The response, its metadata the request's own dict, into which a stream tells its routing."""
    if response.source_nodes:
        request.metadata.update({**(response.metadata or {}), "lag_documents": request.use.record})
        response.metadata = request.metadata
    return response
