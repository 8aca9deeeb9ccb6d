"""Per-call settings from LangChain's config, made explicit before anything is cached or traced.

`bind(...)` may be lost on the way through agents; `config={"configurable": {...}}` reaches the
model through all of them. Folded into the call's keyword arguments it is in the cache key.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import ensure_config

CONFIGURABLE = {"mode": "lag_mode", "adapters": "lag_adapters"}
"""Keyword argument of a call: its name under `config["configurable"]`."""

Model = TypeVar("Model")


def configured(config: RunnableConfig | None) -> dict[str, Any]:
    """What the config says about the plan: "mode" and "adapters", each only if it is given.

    The config of the run that is under way counts too, for what `config` leaves open.
    """
    configurable = ensure_config(config).get("configurable") or {}
    values = {name: configurable.get(key) for name, key in CONFIGURABLE.items()}
    return {name: value for name, value in values.items() if value is not None}


def fold(config: RunnableConfig | None, call: dict[str, Any]) -> dict[str, Any]:
    """The call's keyword arguments with the config's settings where the call says nothing."""
    if call.get("plan") is not None:
        return call
    return {**configured(config), **call}


def folds_config(*names: str) -> Callable[[type[Model]], type[Model]]:
    """Makes methods of a model's class take the config's settings as keyword arguments.

    All ways into a model start with one of a few methods of its base class. With these folded, no
    way is left out: batches, bindings, events, structured output, graphs and agents.

    Args:
        *names: of functions, coroutines or generators of either kind; only their call is changed.
    """

    def fold_all(model: type[Model]) -> type[Model]:
        for name in names:
            setattr(model, name, _folding(getattr(model, name)))
        return model

    return fold_all


def _folding(method: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(method)

    @functools.wraps(method)
    def call(*arguments: Any, **keywords: Any) -> Any:
        config = signature.bind_partial(*arguments, **keywords).arguments.get("config")
        return method(*arguments, **fold(config, keywords))

    return call
