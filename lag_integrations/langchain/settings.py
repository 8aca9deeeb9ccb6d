"""The settings that the chat model and the completion model share, and their identity."""

from __future__ import annotations

import json
from importlib.metadata import version
from typing import Any, ClassVar, Self

from langchain_core.language_models import BaseLanguageModel
from langchain_core.language_models.base import LangSmithParams
from langchain_core.load import dumpd
from pydantic import model_validator

from lag_integrations.call_settings import SAMPLING
from lag_integrations.engines import library_fingerprint, library_path, model_fingerprint
from lag_integrations.generated import translator_written
from lag_integrations.langchain.results import PROVIDER
from lag_integrations.model_settings import LOADING, ModelSettings

HOSTED_ARGUMENTS = frozenset({"api_key", "base_url", "max_retries", "timeout"})
"""Standard arguments of hosted models: accepted, and without effect on a local one."""

PACKAGE = "lag-integrations"
VERSION = version(PACKAGE)


class LAGSettings(ModelSettings, BaseLanguageModel[Any]):
    """What both of LangChain's kinds of model say about the engine and its answers.

    Args:
        logprobs: whether the answer tells each token's log-probability.
        top_logprobs: how many alternatives it tells of each token; implies `logprobs`. The other
            arguments are those of `ModelSettings`.
    """

    accepted: ClassVar[frozenset[str]] = HOSTED_ARGUMENTS

    logprobs: bool = False
    top_logprobs: int | None = None

    @model_validator(mode="after")
    def _set_lag_version(self) -> Self:
        self._add_version(PACKAGE, VERSION)
        return self

    def _kept_fields(self) -> set[str]:
        return self.model_fields_set - {"profile"}  # it is found out anew

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
        own = ("model", "library", "mode", "adapters", "routing", "translator", "stop", "trace")
        names = (*own, *SAMPLING, *LOADING, "logprobs", "top_logprobs")
        return {
            **{name: getattr(self, name) for name in names},
            "model_fingerprint": model_fingerprint(self.engine_key),
            "library_fingerprint": library_fingerprint(self.engine_key),
            "translator_written": translator_written(
                self.translator, library_path(self.engine_key)
            ),
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


def call_key(arguments: dict[str, Any]) -> dict[str, Any]:
    """A call's arguments as they stand in a cache key: a plan by its own complete key."""
    return {name: getattr(value, "key", value) for name, value in arguments.items()}


def cache_key(kind: str, params: dict[str, Any], call: dict[str, Any]) -> str:
    """The key of all that an answer depends on besides its prompt."""
    key = {"type": kind, **params, "call": call_key(call)}
    return json.dumps(key, sort_keys=True, default=repr)
