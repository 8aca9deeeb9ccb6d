"""The engine over HTTP, as OpenAI's clients speak, and a page that shows its routing.

The server needs the extra `serve`, the page `ui` too.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lag_engine.errors import LagError

if TYPE_CHECKING:
    from lag_engine.serving.api import create_app
    from lag_engine.serving.inspector import mount_inspector
    from lag_engine.serving.names import ModelNames
    from lag_engine.serving.web_server import WebServer

_HOMES = {
    "ModelNames": "names",
    "WebServer": "web_server",
    "create_app": "api",
    "mount_inspector": "inspector",
}
_EXTRAS = {
    "fastapi": ("server", "serve"),
    "starlette": ("server", "serve"),
    "uvicorn": ("server", "serve"),
    "gradio": ("inspector", "ui"),
    "matplotlib": ("inspector", "ui"),
}
"""Package: the part that needs it, and the extra that brings it."""

__all__ = ["ModelNames", "WebServer", "create_app", "mount_inspector"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lag_engine.serving' has no attribute '{name}'")
    try:
        return getattr(import_module(f"lag_engine.serving.{_HOMES[name]}"), name)
    except ModuleNotFoundError as error:
        package = str(error.name).split(".")[0]
        if package not in _EXTRAS:
            raise
        part, extra = _EXTRAS[package]
        raise LagError(
            f"Expected the packages of the {part} to be installed",
            f"found no {package}",
            f"run `pip install 'lag-integrations[{extra}]'`",
        ) from error
