"""What a LAGLLM is told when it is made, and what can be told of it before it is loaded."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Self

from llama_index.core.base.llms.types import LLMMetadata
from llama_index.core.constants import DEFAULT_CONTEXT_WINDOW
from llama_index.core.llms.function_calling import FunctionCallingLLM
from pydantic import Field, model_validator

from lag_integrations.call_settings import TraceDetail
from lag_integrations.engines import EngineKey, get_engine, register_engine
from lag_integrations.model_facts import model_facts

if TYPE_CHECKING:
    from lag_engine import LAGEngine


class LAGSettings(FunctionCallingLLM):
    """The arguments of `LAGLLM`, which says what they mean, and its engine."""

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
        for name in sorted(set(values) - known) if isinstance(values, dict) else ():
            close = difflib.get_close_matches(name, cls.model_fields, n=2)
            hint = f"did you mean {' or '.join(close)}?" if close else "it has no effect"
            warnings.warn(f"{cls.__name__} has no argument `{name}`: {hint}", stacklevel=4)
        return values

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
