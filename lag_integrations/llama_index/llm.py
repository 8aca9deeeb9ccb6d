"""LAGLLM: a local model that chooses its adapters by itself, as a LlamaIndex LLM."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing, closing
from typing import Any

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
)
from llama_index.core.instrumentation.span import active_span_id
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.tools import BaseTool

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


class LAGLLM(GuidedPrediction):
    """An LLM on this machine whose LoRA adapters are routed per token and per layer.

    Constructing it is cheap, and so is `metadata`: weights are loaded at the first call, once per
    process for all models that share `model`, `library` and the loading settings. Any call may
    override `mode`, `adapters`, `routing`, `plan`, `model`, `trace`, `stop` and the sampling
    settings by keyword, and ask for `tools`, `tool_choice`, a `guide` or `logprobs`.

    A response's `raw` has "usage", "finish_reason" and "lag_routing"; in a stream, the last one's.

    Args:
        context_window: what `metadata` tells; None for the model's own.
        **kwargs: those of every LlamaIndex LLM: `system_prompt`, `messages_to_prompt`,
            `completion_to_prompt`, `callback_manager`, `pydantic_program_mode`, ... The other
            arguments are those of `ModelSettings`.
    """

    @classmethod
    def class_name(cls) -> str:
        """The name in serialised forms and traces."""
        return "LAGLLM"

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
