"""LAGLLM: a local model that chooses its adapters by itself, as a LlamaIndex LLM."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable, Sequence
from contextlib import aclosing, closing
from typing import TYPE_CHECKING, Any, Self

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    LLMMetadata,
)
from llama_index.core.constants import DEFAULT_CONTEXT_WINDOW
from llama_index.core.instrumentation.span import active_span_id
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.tools import BaseTool
from pydantic import Field, model_validator

from lag_integrations.call_settings import TraceDetail
from lag_integrations.engines import EngineKey, get_engine, register_engine
from lag_integrations.llama_index.call import (
    pieces_of,
    prepare_chat,
    prepare_completion,
    run_async,
)
from lag_integrations.llama_index.results import (
    Growing,
    chat_response,
    completion_response,
)
from lag_integrations.llama_index.structured import GuidedPrediction
from lag_integrations.llama_index.tools import (
    no_tool_call,
    tool_choice_of,
    tool_schemas,
    tool_selections,
)
from lag_integrations.model_facts import model_facts

if TYPE_CHECKING:
    from lag_engine import LAGEngine


class LAGLLM(GuidedPrediction):
    """An LLM on this machine whose LoRA adapters are routed per token and per layer.

    Constructing it is cheap, and so is `metadata`: weights are loaded at the first call, once per
    process for all models that share `model`, `library` and the loading settings. Any call may
    override `mode`, `adapters`, `routing`, `plan`, `model`, `trace`, `stop` and the sampling
    settings by keyword, and ask for `tools`, `tool_choice`, a `guide` or `logprobs`.

    A response's `raw` has "usage", "finish_reason" and "lag_routing"; in a stream, the last one's.

    Args:
        model: "lag-tiny" (the model that ships with the package), a model folder or a hub id.
        library: the adapter library's folder; None for the model's own default.
        mode: "base", "lag", "rag+lag", "prag+lag", ...: what is applied; see the README's table.
        adapters: adapters to pin, for the modes that pin: names or `{name: weight}`, or both by
            slot, `{"task": ..., "knowledge": ...}`.
        routing: options of the plan: `retrieve_k`, `score`, `top_k`, `temperature`, `floor`,
            `candidates`, `knowledge_routed`.
        max_tokens: most tokens an answer may have.
        temperature: 0 is greedy.
        top_p: nucleus sampling; 1 is off.
        top_k: sample among the likeliest tokens only; None is off.
        repetition_penalty: 1 is off.
        seed: of the sampling; None draws one per call.
        stop: strings that end the answer; a call's `stop` replaces them.
        trace: how much routing stands in `raw["lag_routing"]`. "none" is free.
        context_window: what `metadata` tells; None for the model's own.
        revision: of a hub id.
        dtype: "auto" or a torch dtype's name.
        device: "auto" or a torch device's name.
        quantization: "4bit", "8bit" or None.
        **kwargs: those of every LlamaIndex LLM: `system_prompt`, `messages_to_prompt`,
            `completion_to_prompt`, `callback_manager`, `pydantic_program_mode`, ...
    """

    model: str = "lag-tiny"
    library: str | None = None
    mode: str = "lag"
    adapters: list[str] | dict[str, Any] | None = None
    routing: dict[str, Any] = Field(default_factory=dict)
    max_tokens: int = Field(default=256, ge=1)
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int | None = None
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: list[str] | None = None
    trace: TraceDetail = "summary"
    context_window: int | None = Field(default=None, ge=1)
    revision: str | None = None
    dtype: str = "auto"
    device: str = "auto"
    quantization: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _warn_about_unknown_arguments(cls, values: Any) -> Any:
        known = {*cls.model_fields, "class_name"}
        for name in set(values) - known if isinstance(values, dict) else ():
            close = difflib.get_close_matches(name, cls.model_fields, n=2)
            hint = f"did you mean {' or '.join(close)}?" if close else "it has no effect"
            warnings.warn(f"LAGLLM has no argument `{name}`: {hint}", stacklevel=4)
        return values

    @classmethod
    def class_name(cls) -> str:
        """The name in serialised forms and traces."""
        return "LAGLLM"

    @classmethod
    def from_engine(cls, engine: LAGEngine, *, name: str, **arguments: Any) -> Self:
        """An LLM on an engine that was built by hand, registered under the name.

        Raises:
            ModelError: another engine is registered under the name.
        """
        llm = cls(model=name, **arguments)
        register_engine(llm.engine_key, engine)
        return llm

    def with_mode(self, mode: str, **changes: Any) -> Self:
        """An LLM in another mode on the same engine, with other changes as in the constructor."""
        return self.with_changes(mode=mode, **changes)

    def with_adapters(self, adapters: Sequence[str] | dict[str, Any], **changes: Any) -> Self:
        """An LLM that pins these adapters, on the same engine; `mode=` may change with them."""
        pinned = dict(adapters) if isinstance(adapters, dict) else list(adapters)
        return self.with_changes(adapters=pinned, **changes)

    def with_changes(self, **changes: Any) -> Self:
        """An LLM with other constructor arguments on the same engine; this one stays as it is."""
        kept = {*self.model_fields_set, "callback_manager"}
        return type(self)(**{**{name: getattr(self, name) for name in kept}, **changes})

    @property
    def engine_key(self) -> EngineKey:
        """What this LLM's engine is shared by."""
        return EngineKey(
            model=self.model,
            revision=self.revision,
            dtype=self.dtype,
            device=self.device,
            quantization=self.quantization,
            library=self.library,
        )

    @property
    def engine(self) -> LAGEngine:
        """The engine, loaded at the first use."""
        return get_engine(self.engine_key)

    @property
    def metadata(self) -> LLMMetadata:
        """What the model can take; read from its config and tokenizer while it is not loaded."""
        facts = model_facts(self.engine_key)
        window = self.context_window or facts.context_length or DEFAULT_CONTEXT_WINDOW
        return LLMMetadata(
            context_window=window,
            num_output=self.max_tokens,
            is_chat_model=facts.has_chat_template,
            is_function_calling_model=facts.supports_tools,
            model_name=self.model,
        )

    @property
    def tokenizer(self) -> Callable[[str], list[int]]:
        """Text to token ids, for `Settings.tokenizer`; loads the model when it is first called."""
        return self._token_ids

    def _token_ids(self, text: str) -> list[int]:
        ids: list[int] = self.engine.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answers a conversation."""
        call = prepare_chat(self, messages, kwargs)
        generation = call.run()
        return chat_response(generation, call.tell(generation, active_span_id.get()))

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """Answers a conversation piece by piece; closing the generator ends the generation."""
        call, span, answer = prepare_chat(self, messages, kwargs), active_span_id.get(), Growing()

        def responses() -> ChatResponseGen:
            with closing(call.stream()) as pieces:
                for piece in pieces:
                    if answer.take(piece):
                        yield answer.chat(piece, call.tell(piece.generation, span))

        return responses()

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Completes a prompt; for a model with a chat template, answers it."""
        call = prepare_completion(self, prompt, formatted=formatted, arguments=kwargs)
        generation = call.run()
        return completion_response(generation, call.tell(generation, active_span_id.get()))

    @llm_completion_callback()
    def stream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseGen:
        """As `complete`, piece by piece; closing the generator ends the generation."""
        call = prepare_completion(self, prompt, formatted=formatted, arguments=kwargs)
        span, answer = active_span_id.get(), Growing()

        def responses() -> CompletionResponseGen:
            with closing(call.stream()) as pieces:
                for piece in pieces:
                    if answer.take(piece):
                        yield answer.completion(piece, call.tell(piece.generation, span))

        return responses()

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """As `chat`, without blocking the event loop; cancelling it ends the generation."""
        call, generation = await run_async(lambda: prepare_chat(self, messages, kwargs))
        return chat_response(generation, call.tell(generation, active_span_id.get()))

    @llm_chat_callback()
    async def astream_chat(
        self, messages: Sequence[ChatMessage], **kwargs: Any
    ) -> ChatResponseAsyncGen:
        """As `stream_chat`, without blocking the event loop."""
        span, answer = active_span_id.get(), Growing()

        async def responses() -> ChatResponseAsyncGen:
            pieces = pieces_of(lambda: prepare_chat(self, messages, kwargs))
            async with aclosing(pieces):
                async for call, piece in pieces:
                    if answer.take(piece):
                        yield answer.chat(piece, call.tell(piece.generation, span))

        return responses()

    @llm_completion_callback()
    async def acomplete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponse:
        """As `complete`, without blocking the event loop; cancelling it ends the generation."""
        call, generation = await run_async(
            lambda: prepare_completion(self, prompt, formatted=formatted, arguments=kwargs)
        )
        return completion_response(generation, call.tell(generation, active_span_id.get()))

    @llm_completion_callback()
    async def astream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseAsyncGen:
        """As `stream_complete`, without blocking the event loop."""
        span, answer = active_span_id.get(), Growing()

        async def responses() -> CompletionResponseAsyncGen:
            pieces = pieces_of(
                lambda: prepare_completion(self, prompt, formatted=formatted, arguments=kwargs)
            )
            async with aclosing(pieces):
                async for call, piece in pieces:
                    if answer.take(piece):
                        yield answer.completion(piece, call.tell(piece.generation, span))

        return responses()

    def _prepare_chat_with_tools(
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        verbose: bool = False,
        allow_parallel_tool_calls: bool = False,
        tool_required: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        messages = list(chat_history or ())
        if user_msg is not None:
            user = ChatMessage(content=user_msg) if isinstance(user_msg, str) else user_msg
            messages.append(user)
        if not tools:
            return {"messages": messages, **kwargs}
        choice = tool_choice_of(kwargs.pop("tool_choice", None), is_required=tool_required)
        return {
            "messages": messages,
            "tools": tool_schemas(tools),
            "tool_choice": choice,
            "parallel_tool_calls": allow_parallel_tool_calls,
            **kwargs,
        }

    def get_tool_calls_from_response(
        self, response: ChatResponse, error_on_no_tool_call: bool = True, **kwargs: Any
    ) -> list[ToolSelection]:
        """The tools that the answer calls.

        Raises:
            GenerationError: there is none, and `error_on_no_tool_call` is True.
        """
        calls = tool_selections(response.message)
        if not calls and error_on_no_tool_call:
            raise no_tool_call(response)
        return calls
