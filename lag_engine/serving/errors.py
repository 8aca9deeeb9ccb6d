"""Errors as OpenAI's clients read them: `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from lag_engine.errors import (
    AdapterNotFoundError,
    BusyError,
    GenerationError,
    LagError,
    PlanError,
    PromptTooLongError,
)
from lag_engine.serving.names import UnknownModelError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fastapi import FastAPI, Request

    from lag_engine.model.engine import LAGEngine

logger = logging.getLogger(__name__)

_KINDS: tuple[tuple[type[LagError], int, str | None], ...] = (
    (UnknownModelError, HTTPStatus.NOT_FOUND, "model_not_found"),
    (AdapterNotFoundError, HTTPStatus.NOT_FOUND, "model_not_found"),
    (PromptTooLongError, HTTPStatus.BAD_REQUEST, "context_length_exceeded"),
    (BusyError, HTTPStatus.SERVICE_UNAVAILABLE, "overloaded"),
    (PlanError, HTTPStatus.BAD_REQUEST, "invalid_plan"),
    (GenerationError, HTTPStatus.BAD_REQUEST, None),
)
"""The first that fits decides; any other LagError is the server's own trouble."""


def as_json(error: Exception, engine: LAGEngine) -> tuple[dict[str, Any], int]:
    """The error as clients read it, and its status.

    What went wrong inside the server is told to its log only. When the engine is closed, no failure
    is the client's.
    """
    if engine.is_closed:
        return _CLOSED, HTTPStatus.SERVICE_UNAVAILABLE
    fitting = ((int(status), code) for kind, status, code in _KINDS if isinstance(error, kind))
    status, code = next(fitting, (500, None))
    if status == HTTPStatus.INTERNAL_SERVER_ERROR:
        logger.error("A request failed", exc_info=error)
    told = str(error) if isinstance(error, LagError) else "The server failed; its log tells why."
    return _body(told, status, code=code), status


def install_handlers(app: FastAPI, engine: LAGEngine) -> None:
    """Makes every failure of the app an error in OpenAI's form.

    Args:
        app: gets the handlers.
        engine: of the app.
    """

    async def on_error(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse(*as_json(error, engine))

    app.add_exception_handler(LagError, on_error)
    app.add_exception_handler(Exception, on_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)


async def _on_invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first: Mapping[str, Any] = error.errors()[0]
    if first["type"] == "json_invalid":  # its place is a character, and no field
        place, found = "", f"{first['msg']} at character {first['loc'][-1]}"
    else:
        place, found = ".".join(str(p) for p in first["loc"] if p != "body"), str(first["msg"])
        if first["type"] != "missing":  # then the input is what lacks it
            found = f"{first['input']!r:.80}. {found}"
    told = LagError(
        f"Expected a valid request{f', but `{place}` is not' if place else ''}",
        f"Found: {found}",
        "correct it; GET /openapi.json lists every field",
    )
    return JSONResponse(_body(str(told), 400, param=place or None), 400)


async def _on_http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    told = (
        f"{error.detail}: {request.method} {request.url.path}. GET /openapi.json lists every path."
    )
    return JSONResponse(_body(told, error.status_code), error.status_code, error.headers)


def _body(
    message: str, status: int, *, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


_CLOSED = _body("Expected an open engine. The server is closing. Ask again when it is back.", 503)
