"""Per-call settings from LangChain's config, made explicit before anything is cached or traced.

`bind(...)` is lost by a later `bind_tools` and by agents; `config={"configurable": {...}}` reaches
the model through all of them. Folded into the call's keyword arguments it is in the cache key.
"""

from __future__ import annotations

from typing import Any

from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import ensure_config

CONFIGURABLE = {"mode": "lag_mode", "adapters": "lag_adapters"}
"""Keyword argument of a call: its name under `config["configurable"]`."""


def configured(config: RunnableConfig | None) -> dict[str, Any]:
    """What the config says about the plan: "mode" and "adapters", each only if it is given."""
    configurable = ensure_config(config).get("configurable") or {}
    values = {name: configurable.get(key) for name, key in CONFIGURABLE.items()}
    return {name: value for name, value in values.items() if value is not None}


def fold(config: RunnableConfig | None, call: dict[str, Any]) -> dict[str, Any]:
    """The call's keyword arguments with the config's settings where the call says nothing."""
    if call.get("plan") is not None:
        return call
    return {**configured(config), **call}
