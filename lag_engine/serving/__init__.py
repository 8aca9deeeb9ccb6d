"""The engine over HTTP, as OpenAI's clients speak; needs the extra `serve`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lag_engine.errors import LagError

if TYPE_CHECKING:
    from lag_engine.serving.api import create_app
    from lag_engine.serving.names import ModelNames

_HOMES = {"ModelNames": "names", "create_app": "api"}

__all__ = ["ModelNames", "create_app"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lag_engine.serving' has no attribute '{name}'")
    try:
        return getattr(import_module(f"lag_engine.serving.{_HOMES[name]}"), name)
    except ModuleNotFoundError as error:
        if str(error.name).split(".")[0] in ("fastapi", "starlette", "uvicorn"):
            raise missing("server", "serve", error) from error
        raise


def missing(part: str, extra: str, error: ModuleNotFoundError) -> LagError:
    """The error for a part whose packages are not installed."""
    return LagError(
        f"Expected the packages of the {part} to be installed",
        f"found no {error.name}",
        f"run `pip install 'lag-integrations[{extra}]'`",
    )
