"""LAGLLM: the same local model for LangChain's older interface, text in and text out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import aclosing, closing
from typing import TYPE_CHECKING, Any, Self, TypeVar

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseLLM, LanguageModelInput
from langchain_core.language_models.base import LangSmithParams
from langchain_core.outputs import Generation as Output
from langchain_core.outputs import GenerationChunk, LLMResult
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import get_config_list
from pydantic import PrivateAttr

from lag_integrations.aio import iterate
from lag_integrations.generated import ready
from lag_integrations.langchain.call import Call, prepare
from lag_integrations.langchain.config import configured, folds_config
from lag_integrations.langchain.results import usage_metadata
from lag_integrations.langchain.settings import LAGSettings, call_key

if TYPE_CHECKING:
    from lag_engine import Generation

RUN_ARGUMENTS = frozenset({"stop", "callbacks", "tags", "metadata", "run_name", "run_id"})
"""Arguments of `BaseLLM.generate` that are not the call's own."""

T = TypeVar("T")
Answer = tuple["Generation", dict[str, Any]]
"""An answer and its metadata."""


@folds_config("invoke", "ainvoke", "stream", "astream", "generate", "agenerate")
class LAGLLM(LAGSettings, BaseLLM):
    """A completion model on this machine: it continues raw text, without a chat template.

    Tools, structured output and conversations are the chat model's; settings, call arguments and
    config are the same. A batch is one batch of the engine.

    The arguments are those of `LAGSettings`.
    """

    _call: dict[str, Any] = PrivateAttr(default_factory=dict)

    @property
    def _llm_type(self) -> str:
        return "lag-llm"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {**super()._identifying_params, "call": call_key(self._call)}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        return LangSmithParams(**super()._get_ls_params(stop, **kwargs), ls_model_type="llm")

    def generate(self, prompts: list[str], *arguments: Any, **kwargs: Any) -> LLMResult:
        """Answers all prompts in one batch; see `BaseLLM.generate`."""
        model, rest = self._for_call(kwargs)
        return super(LAGLLM, model).generate(prompts, *arguments, **rest)

    async def agenerate(self, prompts: list[str], *arguments: Any, **kwargs: Any) -> LLMResult:
        """Answers all prompts; cancelling it ends their generation."""
        model, rest = self._for_call(kwargs)
        return await super(LAGLLM, model).agenerate(prompts, *arguments, **rest)

    def batch(
        self,
        inputs: list[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[str]:
        """Answers all inputs in one batch of the engine.

        Inputs whose configs differ in mode or adapters, or that may fail one by one
        (`return_exceptions`), are separate requests, which the engine runs side by side.
        """
        shared = _shared_settings(config, len(inputs))
        if return_exceptions or shared is None:
            options = {"return_exceptions": return_exceptions, **kwargs}
            return Runnable.batch(self, inputs, config, **options)
        return super().batch(inputs, config, **{**shared, **kwargs})

    async def abatch(
        self,
        inputs: list[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[str]:
        """As `batch`."""
        shared = _shared_settings(config, len(inputs))
        if return_exceptions or shared is None:
            options = {"return_exceptions": return_exceptions, **kwargs}
            return await Runnable.abatch(self, inputs, config, **options)
        return await super().abatch(inputs, config, **{**shared, **kwargs})

    def _for_call(self, kwargs: dict[str, Any]) -> tuple[Self, dict[str, Any]]:
        """This model with a call's arguments as its own, and what is left of them.

        LangChain's cache keys of completions hold what identifies the model, and no call arguments.
        """
        rest = {name: value for name, value in kwargs.items() if name in RUN_ARGUMENTS}
        model = self.model_copy()
        own = {name: value for name, value in kwargs.items() if name not in rest}
        model._call = {**self._call, **own}  # noqa: SLF001
        return model, rest

    def _prepare(self, prompt: str, stop: list[str] | None, arguments: dict[str, Any]) -> Call:
        return prepare(self, prompt, stop=stop, arguments={**self._call, **arguments})

    def _generate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        call = self._prepare(prompts[0], stop, kwargs)
        with ready(call.engine, call.options) as options:
            plans = options.pop("plan")
            generations = call.engine.generate_batch(prompts, plans=plans, **options)
        return _result([(g, call.metadata(g)) for g in generations])

    async def _agenerate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        # Streams, which end at the next token when they are cancelled, and which the engine joins.
        async def answer(prompt: str) -> Answer:
            call = await asyncio.to_thread(self._prepare, prompt, stop, kwargs)
            generation = await call.agenerate()
            return generation, call.metadata(generation)

        answers = await _all([answer(prompt) for prompt in prompts])
        return _result(answers)

    def _stream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[GenerationChunk]:
        for chunk in self._chunks(prompt, stop, kwargs):
            if run_manager:
                run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk

    async def _astream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[GenerationChunk]:
        async with aclosing(iterate(lambda: self._chunks(prompt, stop, kwargs))) as chunks:
            async for chunk in chunks:
                if run_manager:
                    await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk

    def _chunks(
        self, prompt: str, stop: list[str] | None, arguments: dict[str, Any]
    ) -> Iterator[GenerationChunk]:
        call = self._prepare(prompt, stop, arguments)
        with closing(call.stream()) as pieces:
            for piece in pieces:
                done = piece.generation
                info = None if done is None else _info(done, call.metadata(done))
                if piece.text or info:
                    yield GenerationChunk(text=piece.text, generation_info=info)


def _shared_settings(
    config: RunnableConfig | list[RunnableConfig] | None, n: int
) -> dict[str, Any] | None:
    """What the configs of n inputs all say about the plan; None if they differ."""
    settings = [configured(of_one) for of_one in get_config_list(config, n)]
    return settings[0] if all(s == settings[0] for s in settings) else None


def _result(answers: Sequence[Answer]) -> LLMResult:
    usages = [generation.usage for generation, _ in answers]
    return LLMResult(
        generations=[[Output(text=g.text, generation_info=_info(g, m))] for g, m in answers],
        llm_output={
            "model_name": answers[0][1]["model_name"],
            "token_usage": {
                "prompt_tokens": sum(usage.prompt_tokens for usage in usages),
                "completion_tokens": sum(usage.completion_tokens for usage in usages),
                "total_tokens": sum(usage.total_tokens for usage in usages),
            },
        },
    )


def _info(generation: Generation, metadata: dict[str, Any]) -> dict[str, Any]:
    """What an output or a stream's last chunk says about its making."""
    return {**metadata, "usage_metadata": dict(usage_metadata(generation))}


async def _all(answers: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Waits for all; if one fails, ends the others."""
    tasks = [asyncio.ensure_future(answer) for answer in answers]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
