"""The LAG model inside whatever LangChain has wrapped around it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from langchain_core.runnables import Runnable, RunnableConfig, RunnableParallel, RunnableSequence
from langchain_core.runnables.base import RunnableBindingBase
from langchain_core.runnables.config import merge_configs

from lag_engine import PlanError
from lag_integrations.langchain.settings import LAGSettings


class ModelInside(NamedTuple):
    """A model and what its wrappers bind to it.

    Attributes:
        model: the LAG model.
        config: bound by `with_config`; what a call's config says comes on top of it.
        bound: keyword arguments, which beat any config.
    """

    model: LAGSettings
    config: RunnableConfig
    bound: dict[str, Any]


def find_model(runnable: Runnable[Any, Any]) -> ModelInside:
    """The LAG model of a model, of a binding, or of a sequence that starts with one.

    Raises:
        PlanError: there is none.
    """
    if isinstance(runnable, LAGSettings):
        return ModelInside(runnable, RunnableConfig(), {})
    if isinstance(runnable, RunnableBindingBase):
        inner = find_model(runnable.bound)
        config = merge_configs(inner.config, runnable.config)
        return ModelInside(inner.model, config, {**inner.bound, **runnable.kwargs})
    for part in _starts(runnable):
        if _holds_model(part):
            return find_model(part)
    raise PlanError(
        "Expected a LAGChatModel or LAGLLM, which alone can apply document adapters",
        f"found a {type(runnable).__name__}",
        "Use create_stuff_documents_chain for other models",
    )


def bind_model(runnable: Runnable[Any, Any], **keywords: Any) -> Runnable[Any, Any]:
    """The same runnable with keyword arguments bound to the LAG model inside, over what it binds.

    Raises:
        PlanError: there is no LAG model inside.
    """
    find_model(runnable)
    return _changed(runnable, lambda model: model.bind(**keywords))


def _changed(
    runnable: Runnable[Any, Any], change: Callable[[Runnable[Any, Any]], Runnable[Any, Any]]
) -> Runnable[Any, Any]:
    if isinstance(runnable, RunnableSequence):
        first, *rest = runnable.steps
        return RunnableSequence(_changed(first, change), *rest, name=runnable.name)
    if isinstance(runnable, RunnableParallel):
        steps = runnable.steps__.items()
        return RunnableParallel(
            {name: _changed(s, change) if _holds_model(s) else s for name, s in steps}
        )
    return change(runnable)


def _holds_model(runnable: Runnable[Any, Any]) -> bool:
    if isinstance(runnable, RunnableBindingBase):
        return _holds_model(runnable.bound)
    return isinstance(runnable, LAGSettings) or any(map(_holds_model, _starts(runnable)))


def _starts(runnable: Runnable[Any, Any]) -> list[Runnable[Any, Any]]:
    """Those parts of a sequence or a map that are given its input."""
    if isinstance(runnable, RunnableSequence):
        return [runnable.first]
    return list(runnable.steps__.values()) if isinstance(runnable, RunnableParallel) else []
