"""Structured prediction by guided decoding: the answer cannot but match the schema."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from typing import Any

from llama_index.core.base.llms.types import ChatResponse
from llama_index.core.instrumentation.events.llm import (
    LLMStructuredPredictEndEvent,
    LLMStructuredPredictStartEvent,
)
from llama_index.core.program.streaming_utils import process_streaming_content_incremental
from llama_index.core.prompts import PromptTemplate
from llama_index.core.types import Model, PydanticProgramMode
from llama_index_instrumentation import get_dispatcher
from pydantic import BaseModel, ValidationError

from lag_engine import GenerationError, Guide
from lag_integrations.llama_index.settings import LAGSettings

dispatcher = get_dispatcher(__name__)

OF_TOOLS = ("tool_choice", "tool_required", "allow_parallel_tool_calls")
"""What callers pass to programs that go through tools; this way there are none."""


class GuidedPrediction(LAGSettings):
    """An LLM whose `structured_predict` guides the decoding by the output's JSON schema.

    A `pydantic_program_mode` other than the default goes the framework's way, through tools or
    through parsing.
    """

    @dispatcher.span
    def structured_predict(
        self,
        output_cls: type[Model],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Model:
        """An instance of the class, as the prompt asks.

        Args:
            output_cls: a pydantic class.
            prompt: a template.
            llm_kwargs: arguments of the call, such as `mode` or `max_tokens`.
            **prompt_args: fill the template.

        Raises:
            GenerationError: the answer was cut before it was whole, or a validator refuses it.
        """
        if not self._is_guided:
            output: Model = super().structured_predict(
                output_cls, prompt, llm_kwargs, **prompt_args
            )
            return output
        _tell_start(output_cls, prompt, prompt_args)
        messages = self._get_messages(prompt, **prompt_args)
        response = self.chat(messages, **guided(output_cls, llm_kwargs))
        return _told(parsed(output_cls, response.message.content or "", response.raw))

    @dispatcher.span
    async def astructured_predict(
        self,
        output_cls: type[Model],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Model:
        """As `structured_predict`, without blocking the event loop."""
        if not self._is_guided:
            output: Model = await super().astructured_predict(
                output_cls, prompt, llm_kwargs, **prompt_args
            )
            return output
        _tell_start(output_cls, prompt, prompt_args)
        messages = self._get_messages(prompt, **prompt_args)
        response = await self.achat(messages, **guided(output_cls, llm_kwargs))
        return _told(parsed(output_cls, response.message.content or "", response.raw))

    def _structured_stream_call(
        self,
        output_cls: type[Model],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Generator[Any, None, None]:
        if not self._is_guided:
            return super()._structured_stream_call(output_cls, prompt, llm_kwargs, **prompt_args)
        return self._guided_stream(output_cls, prompt, llm_kwargs, prompt_args)

    async def _structured_astream_call(
        self,
        output_cls: type[Model],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> AsyncGenerator[Any, None]:
        if not self._is_guided:
            return await super()._structured_astream_call(
                output_cls,
                prompt,
                llm_kwargs,
                **prompt_args,
            )
        return self._guided_astream(output_cls, prompt, llm_kwargs, prompt_args)

    @property
    def _is_guided(self) -> bool:
        return self.pydantic_program_mode == PydanticProgramMode.DEFAULT

    def _guided_stream(
        self,
        output_cls: type[Model],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None,
        prompt_args: dict[str, Any],
    ) -> Generator[Any, None, None]:
        messages = self._get_messages(prompt, **prompt_args)
        partial = response = None
        for response in self.stream_chat(messages, **guided(output_cls, llm_kwargs)):
            partial = process_streaming_content_incremental(response, output_cls, partial)
            yield partial
        _check_whole(output_cls, response)

    async def _guided_astream(
        self,
        output_cls: type[Model],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None,
        prompt_args: dict[str, Any],
    ) -> AsyncGenerator[Any, None]:
        messages = self._get_messages(prompt, **prompt_args)
        partial = response = None
        responses = await self.astream_chat(messages, **guided(output_cls, llm_kwargs))
        async for response in responses:
            partial = process_streaming_content_incremental(response, output_cls, partial)
            yield partial
        _check_whole(output_cls, response)


def guided(output_cls: type[BaseModel], llm_kwargs: dict[str, Any] | None) -> dict[str, Any]:
    """A call's arguments that hold the answer to the class's schema."""
    arguments = {k: v for k, v in (llm_kwargs or {}).items() if k not in OF_TOOLS}
    return {**arguments, "guide": Guide.json_schema(output_cls.model_json_schema())}


def parsed(output_cls: type[Model], text: str, raw: dict[str, Any] | None) -> Model:
    """An answer's text as an instance of the class.

    Args:
        output_cls: a pydantic class.
        text: the whole answer.
        raw: the response's.

    Raises:
        GenerationError: the answer was cut before it was whole, or a validator refuses it.
    """
    try:
        return output_cls.model_validate_json(text)
    except ValidationError as error:
        was_cut = (raw or {}).get("finish_reason") == "length"
        raise GenerationError(
            f"Expected a {output_cls.__name__} as JSON",
            f"found {text!r:.200}" + (", cut by `max_tokens`" if was_cut else f": {error}"),
            "Pass more `max_tokens`" if was_cut else "Say the validator's rule in the schema",
        ) from error


def _check_whole(output_cls: type[BaseModel], response: ChatResponse | None) -> None:
    """Raises if a stream was cut: core repairs what is missing, so that its objects hide it."""
    assert response is not None
    parsed(output_cls, response.message.content or "", response.raw)


def _tell_start(
    output_cls: type[BaseModel], prompt: PromptTemplate, prompt_args: dict[str, Any]
) -> None:
    dispatcher.event(
        LLMStructuredPredictStartEvent(
            output_cls=output_cls, template=prompt, template_args=prompt_args
        )
    )


def _told(output: Model) -> Model:
    dispatcher.event(LLMStructuredPredictEndEvent(output=output))
    return output
