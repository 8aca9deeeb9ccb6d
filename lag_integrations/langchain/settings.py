"""The settings that the chat model and the completion model share, and their identity."""

from __future__ import annotations

import difflib
import json
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Self

from langchain_core.language_models import BaseLanguageModel
from langchain_core.language_models.base import LangSmithParams
from langchain_core.load import dumpd
from pydantic import Field, model_validator

from lag_integrations.call_settings import SAMPLING, TraceDetail
from lag_integrations.engines import (
    EngineKey,
    get_engine,
    library_fingerprint,
    model_fingerprint,
    register_engine,
)
from lag_integrations.langchain.results import PROVIDER

if TYPE_CHECKING:
    from lag_engine import LAGEngine

HOSTED_ARGUMENTS = frozenset({"api_key", "base_url", "max_retries", "timeout"})
"""Standard arguments of hosted models: accepted, and without effect on a local one."""

LOADING = ("revision", "dtype", "device", "quantization")
PACKAGE = "lag-integrations"
VERSION = version(PACKAGE)


class LAGSettings(BaseLanguageModel[Any]):
    """What both of LangChain's kinds of model say about the engine and its answers.

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
        logprobs: whether the answer tells each token's log-probability.
        top_logprobs: how many alternatives it tells of each token; implies `logprobs`.
        trace: how much routing the answer's metadata tells. "none" is free.
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
    logprobs: bool = False
    top_logprobs: int | None = None
    trace: TraceDetail = "summary"
    revision: str | None = None
    dtype: str = "auto"
    device: str = "auto"
    quantization: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _warn_about_unknown_arguments(cls, values: Any) -> Any:
        known = set(cls.model_fields) | HOSTED_ARGUMENTS
        for name in sorted(set(values) - known) if isinstance(values, dict) else ():
            close = difflib.get_close_matches(name, cls.model_fields, n=2)
            hint = f"did you mean {' or '.join(close)}?" if close else "it has no effect"
            warnings.warn(f"{cls.__name__} has no argument `{name}`: {hint}", stacklevel=4)
        return values

    @model_validator(mode="after")
    def _set_lag_version(self) -> Self:
        self._add_version(PACKAGE, VERSION)
        return self

    @classmethod
    def from_engine(cls, engine: LAGEngine, *, name: str, **arguments: Any) -> Self:
        """A model on an engine that was built by hand, registered under the name.

        Raises:
            ModelError: another engine is registered under the name.
        """
        model = cls(model=name, **arguments)
        register_engine(model.engine_key, engine)
        return model._with()

    def with_mode(self, mode: str, **changes: Any) -> Self:
        """A model in another mode on the same engine, with other changes as in the constructor."""
        return self._with(mode=mode, **changes)

    def with_adapters(self, adapters: Sequence[str] | dict[str, Any], **changes: Any) -> Self:
        """A model that pins these adapters, on the same engine; `mode=` may change with them."""
        pinned = dict(adapters) if isinstance(adapters, dict) else list(adapters)
        return self._with(adapters=pinned, **changes)

    def _with(self, **changes: Any) -> Self:
        # Through the constructor, which checks the changes and finds out the model's profile.
        kept = self.model_fields_set - {"profile"}
        return type(self)(**{**{name: getattr(self, name) for name in kept}, **changes})

    @property
    def engine_key(self) -> EngineKey:
        """What this model's engine is shared by."""
        loading = {name: getattr(self, name) for name in LOADING}
        return EngineKey(model=self.model, library=self.library, **loading)

    @property
    def engine(self) -> LAGEngine:
        """The engine, loaded at the first use."""
        return get_engine(self.engine_key)

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """True: the arguments are plain values; the engine is not part of the object."""
        return True

    @property
    def _serialized(self) -> dict[str, Any]:
        # LangChain caches it, and `model_copy` copies the cache: then traces show old settings.
        return dict(dumpd(self))

    @property
    def _identifying_params(self) -> dict[str, Any]:
        own = ("model", "library", "mode", "adapters", "routing", "stop", "trace")
        names = (*own, *SAMPLING, *LOADING, "logprobs", "top_logprobs")
        return {
            **{name: getattr(self, name) for name in names},
            "model_fingerprint": model_fingerprint(self.engine_key),
            "library_fingerprint": library_fingerprint(self.engine_key),
            "version": VERSION,
        }

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = LangSmithParams(
            ls_provider=PROVIDER,
            ls_model_name=str(kwargs.get("model") or self.model),
            ls_temperature=kwargs.get("temperature", self.temperature),
            ls_max_tokens=kwargs.get("max_tokens", self.max_tokens),
        )
        stops = stop or self.stop
        return LangSmithParams(**params, ls_stop=stops) if stops else params

    def get_token_ids(self, text: str) -> list[int]:
        """The ids of raw text, without special tokens."""
        ids: list[int] = self.engine.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids


def call_key(arguments: dict[str, Any]) -> dict[str, Any]:
    """A call's arguments as they stand in a cache key: a plan by its own complete key."""
    return {name: getattr(value, "key", value) for name, value in arguments.items()}


def cache_key(kind: str, params: dict[str, Any], call: dict[str, Any]) -> str:
    """The key of all that an answer depends on besides its prompt."""
    key = {"type": kind, **params, "call": call_key(call)}
    return json.dumps(key, sort_keys=True, default=repr)
