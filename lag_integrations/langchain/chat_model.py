"""LAGChatModel: a local model that chooses its adapters by itself, as a LangChain chat model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing, closing
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput, ModelProfile
from langchain_core.language_models.base import LangSmithParams
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable

from lag_integrations.aio import iterate
from lag_integrations.langchain.binding import LAGBinding
from lag_integrations.langchain.call import Call, prepare
from lag_integrations.langchain.config import folds_config
from lag_integrations.langchain.messages import to_engine_messages
from lag_integrations.langchain.profile import model_profile
from lag_integrations.langchain.results import to_chat_result, to_chunk, to_last_chunk
from lag_integrations.langchain.settings import LAGSettings, cache_key
from lag_integrations.langchain.structured import (
    Method,
    Schema,
    answer_parser,
    call_parser,
    check_method,
    guide_of,
    parsed,
)
from lag_integrations.langchain.tools import ToolChoice, ToolLike, to_tool_choice, to_tools


@folds_config(
    *("invoke", "ainvoke", "stream", "astream", "generate", "agenerate"),
    *("_chat_model_stream_v3", "_achat_model_stream_v3"),
)
class LAGChatModel(LAGSettings, BaseChatModel):
    """A chat model on this machine whose LoRA adapters are routed per token and per layer.

    Constructing it is cheap: weights are loaded at the first call, once per process for all models
    that share `model`, `library` and the loading settings. Any call may override `mode`,
    `adapters`, `routing`, `model`, `trace` and the sampling settings by keyword, and mode and
    adapters also through `config={"configurable": {"lag_mode": ..., "lag_adapters": ...}}`, which
    survives every wrapper and agent. A keyword beats the config. A call also takes `plan`, in place
    of mode, adapters and routing, and `guide`, a `lag_engine.Guide` that the answer must match.

    Args:
        streaming: makes `invoke` stream internally. The other arguments are those of `LAGSettings`.
    """

    streaming: bool = False

    @property
    def _llm_type(self) -> str:
        return "lag-chat"

    def _resolve_model_profile(self) -> ModelProfile | None:
        return model_profile(self.engine_key)

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        return LangSmithParams(**super()._get_ls_params(stop, **kwargs), ls_model_type="chat")

    def _get_llm_string(self, stop: list[str] | None = None, **kwargs: Any) -> str:
        # LangChain's own outlives changes of the fields, and knows neither model nor library.
        return cache_key(self._llm_type, self._identifying_params, {**kwargs, "stop": stop})

    def bind(self, **kwargs: Any) -> LAGBinding:
        """The model with call arguments bound; they outlast tools and schemas bound after them."""
        return LAGBinding(bound=self, kwargs=kwargs, config={})

    def bind_tools(
        self,
        tools: Sequence[ToolLike],
        *,
        tool_choice: ToolChoice | None = None,
        strict: bool | None = None,
        parallel_tool_calls: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """A model that may call the tools; what it calls always fits their schemas.

        Args:
            tools: functions, LangChain tools, pydantic or TypedDict classes, schemas.
            tool_choice: "auto" or None: the model decides; "any", "required" or True: it must
                call one; "none" or False: it must not; a tool's name, or a dictionary with it: it
                must call that one.
            strict: True closes the schemas against properties they do not name.
            parallel_tool_calls: False allows one call at most.
            **kwargs: call arguments to bind.

        Raises:
            GenerationError: a tool cannot be run by the caller, or the choice is not among them.
        """
        schemas = to_tools(tools, strict=strict)
        kwargs.update(tools=schemas, tool_choice=to_tool_choice(tool_choice, schemas))
        if parallel_tool_calls is not None:
            kwargs["parallel_tool_calls"] = parallel_tool_calls
        return self.bind(**kwargs)

    def with_structured_output(
        self,
        schema: Schema | None = None,
        *,
        method: Method = "json_schema",
        include_raw: bool = False,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, Any]:
        """A model whose answers are values of the schema, by guided decoding.

        Args:
            schema: a pydantic class, of which instances are returned; else a TypedDict, a JSON
                schema or a tool: dictionaries are.
            method: "json_schema": the answer's text matches the schema; "function_calling": the
                arguments of a tool call do; "json_mode": as "json_schema", or without a schema
                any JSON object, whose form the prompt must say.
            include_raw: returns `{"raw", "parsed", "parsing_error"}` and raises no parsing error.
            strict: changes nothing, for an answer always matches its schema; accepted because other
                models' callers pass it.
            **kwargs: call arguments to bind.

        Raises:
            GenerationError: the method does not exist, or has no schema.
        """
        check_method(method, schema, strict=strict)
        told = {"kwargs": {"method": method, "strict": strict}, "schema": schema or {}}
        call = {**kwargs, "ls_structured_output_format": told}
        if method == "function_calling" and schema is not None:
            (tool,) = to_tools([schema], strict=strict)
            name = tool["function"]["name"]
            llm = self.bind_tools([tool], tool_choice=name, parallel_tool_calls=False, **call)
            return parsed(llm, call_parser(schema, name), include_raw=include_raw)
        guided = self.bind(**call, guide=guide_of(schema))
        return parsed(guided, answer_parser(schema), include_raw=include_raw)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        call = prepare(self, messages, stop=stop, arguments=kwargs)
        generation = call.generate()
        return to_chat_result(generation, call.metadata(generation))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        yield from _chunks(prepare(self, messages, stop=stop, arguments=kwargs))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        call = await asyncio.to_thread(prepare, self, messages, stop=stop, arguments=kwargs)
        generation = await call.agenerate()
        return to_chat_result(generation, call.metadata(generation))

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        chunks = iterate(lambda: self._stream(messages, stop, **kwargs))
        async with aclosing(chunks):
            async for chunk in chunks:
                yield chunk

    def get_num_tokens_from_messages(
        self, messages: list[BaseMessage], tools: Sequence[ToolLike] | None = None
    ) -> int:
        """How many tokens the model reads for these messages; equals `usage_metadata`'s input."""
        if not messages:
            return 0
        options = {"tools": to_tools(tools)} if tools else {}
        return len(self.engine.tokenize_messages(to_engine_messages(messages), **options))


def _chunks(call: Call) -> Iterator[ChatGenerationChunk]:
    n_calls = 0
    with closing(call.stream()) as pieces:
        for piece in pieces:
            done = piece.generation
            if done is not None:
                yield to_last_chunk(piece, done, call.metadata(done), n_calls=n_calls)
            elif chunk := to_chunk(piece, n_calls=n_calls):
                n_calls += len(piece.tool_calls)
                yield chunk
