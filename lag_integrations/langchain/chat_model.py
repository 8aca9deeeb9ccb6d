"""LAGChatModel: a local model that chooses its adapters by itself, as a LangChain chat model."""

from __future__ import annotations

import difflib
import json
import warnings
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, closing
from typing import TYPE_CHECKING, Any, Self

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.language_models.base import LangSmithParams
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool
from pydantic import Field, model_validator

from lag_engine import GenerationError
from lag_integrations.aio import iterate
from lag_integrations.engines import (
    EngineKey,
    get_engine,
    library_fingerprint,
    register_engine,
)
from lag_integrations.langchain.call import SAMPLING, key_of, prepare
from lag_integrations.langchain.config import fold
from lag_integrations.langchain.messages import to_engine_messages
from lag_integrations.langchain.results import (
    PROVIDER,
    TraceDetail,
    to_chat_result,
    to_chunk,
    to_last_chunk,
)

if TYPE_CHECKING:
    from lag_engine import LAGEngine

HOSTED_ARGUMENTS = frozenset({"api_key", "base_url", "max_retries", "timeout"})
"""Standard arguments of hosted models: accepted, and without effect on a local one."""


class LAGChatModel(BaseChatModel):
    """A chat model on this machine whose LoRA adapters are routed per token and per layer.

    Constructing it is cheap: weights are loaded at the first call, once per process for all models
    that share `model`, `library` and the loading settings. Any call may override `mode`,
    `adapters`, `routing`, `model`, `trace` and the sampling settings by keyword, and mode and
    adapters also through `config={"configurable": {"lag_mode": ..., "lag_adapters": ...}}`, which
    survives `bind_tools`, structured output and agents. A keyword beats the config.

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
        trace: how much routing stands in `response_metadata["lag_routing"]`. "none" is free.
        streaming: makes `invoke` stream internally.
        revision: of a hub id.
        dtype: "auto" or a torch dtype's name.
        device: "auto" or a torch device's name.
        quantization: "4bit", "8bit" or None.
    """

    model: str = "lag-tiny"
    library: str | None = None
    mode: str = "lag"
    adapters: list[str] | dict[str, Any] | None = None
    routing: dict[str, Any] = Field(default_factory=dict)
    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int | None = None
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: list[str] | None = None
    trace: TraceDetail = "summary"
    streaming: bool = False
    revision: str | None = None
    dtype: str = "auto"
    device: str = "auto"
    quantization: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _warn_about_unknown_arguments(cls, values: Any) -> Any:
        known = set(cls.model_fields) | HOSTED_ARGUMENTS
        for name in set(values) - known if isinstance(values, dict) else ():
            close = difflib.get_close_matches(name, cls.model_fields, n=2)
            hint = f"did you mean {' or '.join(close)}?" if close else "it has no effect"
            warnings.warn(f"LAGChatModel has no argument `{name}`: {hint}", stacklevel=4)
        return values

    @classmethod
    def from_engine(cls, engine: LAGEngine, *, name: str, **arguments: Any) -> Self:
        """A chat model on an engine that was built by hand, registered under the name.

        Raises:
            ModelError: another engine is registered under the name.
        """
        model = cls(model=name, **arguments)
        register_engine(model.engine_key, engine)
        return model

    def with_mode(self, mode: str, **changes: Any) -> Self:
        """A model in another mode on the same engine, with other changes as in the constructor."""
        return self._with(mode=mode, **changes)

    def with_adapters(self, adapters: Sequence[str] | dict[str, Any], **changes: Any) -> Self:
        """A model that pins these adapters, on the same engine; `mode=` may change with them."""
        pinned = dict(adapters) if isinstance(adapters, dict) else list(adapters)
        return self._with(adapters=pinned, **changes)

    def _with(self, **changes: Any) -> Self:
        # Through the constructor: `model_copy` would carry the serialized form of the original.
        set_fields = {name: getattr(self, name) for name in self.model_fields_set}
        return type(self)(**{**set_fields, **changes})

    @property
    def engine_key(self) -> EngineKey:
        """What this model's engine is shared by."""
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

    # Identity: tracing, caching, serialization.

    @property
    def _llm_type(self) -> str:
        return "lag-chat"

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """True: the arguments are plain values; the engine is not part of the object."""
        return True

    @property
    def _identifying_params(self) -> dict[str, Any]:
        names = ("model", "library", "mode", "adapters", "routing", "stop", "trace", *SAMPLING)
        loading = ("revision", "dtype", "device", "quantization")
        params = {name: getattr(self, name) for name in (*names, *loading)}
        return {**params, "library_fingerprint": library_fingerprint(self.engine_key)}

    def _get_llm_string(self, stop: list[str] | None = None, **kwargs: Any) -> str:
        # LangChain's own key is a cached property that outlives changes of the fields, and knows
        # nothing of the library's content.
        call = {name: key_of(value) for name, value in kwargs.items()}
        key = {"type": self._llm_type, **self._identifying_params, "call": call}
        return json.dumps({**key, "call_stop": stop}, sort_keys=True, default=repr)

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = LangSmithParams(
            ls_provider=PROVIDER,
            ls_model_type="chat",
            ls_model_name=str(kwargs.get("model") or self.model),
            ls_temperature=kwargs.get("temperature", self.temperature),
            ls_max_tokens=kwargs.get("max_tokens", self.max_tokens),
        )
        stops = stop or self.stop
        return LangSmithParams(**params, ls_stop=stops) if stops else params

    # Calls: the config's settings become keyword arguments, which are part of every cache key.

    def invoke(
        self,
        input: LanguageModelInput,  # noqa: A002
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        """Answers; see `BaseChatModel.invoke`."""
        return super().invoke(input, config, **fold(config, kwargs))

    async def ainvoke(
        self,
        input: LanguageModelInput,  # noqa: A002
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        """Answers without blocking the event loop; cancelling it ends the generation."""
        return await super().ainvoke(input, config, **fold(config, kwargs))

    def stream(
        self,
        input: LanguageModelInput,  # noqa: A002
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> Iterator[AIMessageChunk]:
        """Answers piece by piece; closing the iterator ends the generation."""
        yield from super().stream(input, config, **fold(config, kwargs))

    async def astream(
        self,
        input: LanguageModelInput,  # noqa: A002
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[AIMessageChunk]:
        """Answers piece by piece without blocking the event loop."""
        chunks = super().astream(input, config, **fold(config, kwargs))
        async with aclosing(chunks):  # type: ignore[type-var]
            async for chunk in chunks:
                yield chunk

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        call = prepare(self, messages, stop=stop, arguments=kwargs)
        generation = call.engine.generate(call.messages, **call.options)
        return to_chat_result(generation, call.metadata(generation))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        call = prepare(self, messages, stop=stop, arguments=kwargs)
        with closing(call.stream()) as pieces:
            for piece in pieces:
                if piece.generation is not None:
                    metadata = call.metadata(piece.generation)
                    yield to_last_chunk(piece.text, piece.generation, metadata)
                elif piece.text:
                    yield to_chunk(piece.text)

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        def results() -> Iterator[ChatResult | None]:  # None at each step, where it can be ended
            call = prepare(self, messages, stop=stop, arguments=kwargs)
            with closing(call.stream()) as pieces:
                for piece in pieces:
                    done = piece.generation
                    yield None if done is None else to_chat_result(done, call.metadata(done))

        async with aclosing(iterate(results)) as steps:
            *_, result = [step async for step in steps]
        assert result is not None
        return result

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

    # Tokens are counted as the model reads them, chat template included.

    def get_token_ids(self, text: str) -> list[int]:
        """The ids of raw text, without special tokens."""
        ids: list[int] = self.engine.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def get_num_tokens_from_messages(
        self,
        messages: list[BaseMessage],
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool] | None = None,
    ) -> int:
        """How many tokens the model reads for these messages; equals `usage_metadata`'s input."""
        if tools:
            raise GenerationError(
                "Expected messages without tools", f"got {len(tools)} tools", "Leave tools out"
            )
        return len(self.engine.tokenize_messages(to_engine_messages(messages)))
