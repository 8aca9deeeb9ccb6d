"""The settings that every framework's model objects share, and the engine behind them."""

from __future__ import annotations

import difflib
import warnings
from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import BaseModel, Field, model_validator

from lag_integrations.call_settings import TraceDetail
from lag_integrations.engines import EngineKey, get_engine, register_engine
from lag_integrations.modes import documents_of

if TYPE_CHECKING:
    from lag_engine import LAGEngine

LOADING = ("revision", "dtype", "device", "quantization")


class ModelSettings(BaseModel):
    """What a framework's model object is told when it is made; it holds no weights.

    Args:
        model: "lag-tiny" (the model that ships with the package), a model folder or a hub id.
        library: the adapter library's folder; None for the model's own default.
        mode: "base", "lag", "rag+lag", "prag+lag", ...: what is applied; see the README's table.
        adapters: adapters to pin, for the modes that pin: names or `{name: weight}`, or both by
            slot, `{"task": ..., "knowledge": ...}`.
        routing: options of the plan: `retrieve_k`, `score`, `top_k`, `temperature`, `floor`,
            `approximate`, `candidates`, `knowledge_routed`.
        translator: the folder of what makes adapters in mode "dyprag" and "dyprag+lag"; None for
            the one that `lag encode --method dyprag` leaves in the library.
        max_tokens: most tokens an answer may have.
        temperature: 0 is greedy.
        top_p: nucleus sampling; 1 is off.
        top_k: sample among the likeliest tokens only; None is off.
        repetition_penalty: 1 is off.
        seed: of the sampling; None draws one per call.
        stop: strings that end the answer; a call's `stop` replaces them.
        trace: how much routing the answer's metadata tells. "none" is free.
        revision: of a hub id.
        dtype: "auto" or a torch dtype's name.
        device: "auto" or a torch device's name.
        quantization: "4bit", "8bit" or None.
        factor_cache_bytes: the most that the process keeps of the library's files, for one larger
            than memory (Linux); None leaves it to the system. No answer depends on it.

    Raises:
        PlanError: there is no such mode.
        pydantic.ValidationError: a setting is out of range.
    """

    accepted: ClassVar[frozenset[str]] = frozenset()
    """Arguments that are no fields, and taken without a warning."""

    model: str = "lag-tiny"
    library: str | None = None
    mode: str = "lag"
    adapters: list[str] | dict[str, Any] | None = None
    routing: dict[str, Any] = Field(default_factory=dict)
    translator: str | None = None
    max_tokens: int = Field(256, ge=1)
    temperature: float = Field(0.0, ge=0, allow_inf_nan=False)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int | None = Field(None, ge=1)
    repetition_penalty: float = Field(1.0, gt=0, allow_inf_nan=False)
    seed: int | None = Field(None, ge=0)
    stop: list[str] | None = None
    trace: TraceDetail = "summary"
    revision: str | None = None
    dtype: str = "auto"
    device: str = "auto"
    quantization: str | None = None
    factor_cache_bytes: int | None = Field(None, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _warn_about_unknown_arguments(cls, values: Any) -> Any:
        known = {*cls.model_fields, *cls.accepted}
        for name in sorted(set(values) - known) if isinstance(values, dict) else ():
            close = difflib.get_close_matches(name, cls.model_fields, n=2)
            hint = f"did you mean {' or '.join(close)}?" if close else "it has no effect"
            warnings.warn(f"{cls.__name__} has no argument `{name}`: {hint}", stacklevel=4)
        return values

    @model_validator(mode="after")
    def _check_mode(self) -> Self:
        documents_of(self.mode)  # no such mode is said here, and not at the first call
        return self

    @classmethod
    def from_engine(cls, engine: LAGEngine, *, name: str, **arguments: Any) -> Self:
        """A model on an engine that was built by hand, registered under the name.

        Raises:
            ModelError: another engine is registered under the name.
        """
        model = cls(model=name, **arguments)
        register_engine(model.engine_key, engine)
        return model.with_changes()

    def with_mode(self, mode: str, **changes: Any) -> Self:
        """A model in another mode on the same engine, with other changes as in the constructor."""
        return self.with_changes(mode=mode, **changes)

    def with_adapters(self, adapters: Sequence[str] | dict[str, Any], **changes: Any) -> Self:
        """A model that pins these adapters, on the same engine; `mode=` may change with them."""
        pinned = dict(adapters) if isinstance(adapters, dict) else list(adapters)
        return self.with_changes(adapters=pinned, **changes)

    def with_changes(self, **changes: Any) -> Self:
        """A model with other constructor arguments on the same engine; this one stays as it is."""
        # Through the constructor: a copy of a model carries what its framework has cached.
        kept = {name: getattr(self, name) for name in self._kept_fields()}
        return type(self)(**{**kept, **changes})

    @abstractmethod
    def _kept_fields(self) -> set[str]:
        """The fields that a changed model takes over."""

    @property
    def engine_key(self) -> EngineKey:
        """What this model's engine is shared by."""
        loading = {name: getattr(self, name) for name in LOADING}
        return EngineKey(
            model=self.model,
            library=self.library,
            factor_cache_bytes=self.factor_cache_bytes,
            **loading,
        )

    @property
    def engine(self) -> LAGEngine:
        """The engine, loaded at the first use."""
        return get_engine(self.engine_key)

    def get_token_ids(self, text: str) -> list[int]:
        """The ids of raw text, without special tokens; loads the model."""
        ids: list[int] = self.engine.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids
