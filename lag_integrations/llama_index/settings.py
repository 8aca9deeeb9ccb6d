"""What a LAGLLM is told when it is made, and what can be told of it before it is loaded."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from llama_index.core.base.llms.types import LLMMetadata
from llama_index.core.constants import DEFAULT_CONTEXT_WINDOW
from llama_index.core.llms.function_calling import FunctionCallingLLM
from pydantic import Field

from lag_integrations.model_facts import model_facts
from lag_integrations.model_settings import ModelSettings


class LAGSettings(ModelSettings, FunctionCallingLLM):
    """The arguments of `LAGLLM`, which says what they mean, and its engine."""

    accepted: ClassVar[frozenset[str]] = frozenset({"class_name"})

    max_tokens: int = Field(default=256, ge=1)
    context_window: int | None = Field(default=None, ge=1)

    def _kept_fields(self) -> set[str]:
        return {*self.model_fields_set, "callback_manager"}

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
        return self.get_token_ids
