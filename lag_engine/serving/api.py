"""The HTTP interface: OpenAI's paths, health and metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from lag_engine.serving.errors import install_handlers
from lag_engine.serving.metrics import MEDIA_TYPE
from lag_engine.serving.names import ModelNames
from lag_engine.serving.schemas import ChatRequest, CompletionRequest
from lag_engine.serving.service import Service

if TYPE_CHECKING:
    from lag_engine.model.engine import LAGEngine
    from lag_engine.model.generation import TraceDetail


def create_app(
    engine: LAGEngine,
    *,
    served_name: str | None = None,
    auto_mode: str = "lag",
    trace: TraceDetail = "summary",
) -> FastAPI:
    """Returns an application that answers as OpenAI's API does.

    POST /v1/chat/completions and /v1/completions, GET /v1/models, /health and /metrics. The model's
    name says what is applied: the base's own name nothing, ``lag-auto`` what the router chooses,
    ``BASE:ADAPTER`` one adapter, ``BASE@MODE`` any mode. A request may add
    ``"lag": {"mode", "adapters", "options", "trace"}``; each choice of the reply has `lag_routing`.
    Fields that would change the answer and are not supported are refused; unknown ones are ignored
    and named in the header ``x-lag-ignored-fields``. A client that hangs up ends its generation.

    Args:
        engine: answers; stays the caller's to close.
        served_name: of the base model; by default the engine's name, of a path its last part.
        auto_mode: what ``lag-auto`` stands for.
        trace: how much of the routing each choice tells unless the request says so: "none" is
            free, "summary" the shares of adapters, "full" every decision.

    Raises:
        PlanError: `auto_mode` is no mode that runs without more from the request.
        LagError: the base model cannot be served under its name.
    """
    names = ModelNames(engine, served_name, auto_mode=auto_mode)
    service = Service(engine, names, trace=trace)
    app = FastAPI(title="LAG", summary="A local model that chooses its LoRA adapters.")
    install_handlers(app, engine)

    @app.post("/v1/chat/completions")
    async def chat(request: ChatRequest, http: Request) -> Response:
        return await service.chat(request, http)

    @app.post("/v1/completions")
    async def completion(request: CompletionRequest, http: Request) -> Response:
        return await service.completion(request, http)

    @app.get("/v1/models")
    def models() -> Response:
        return JSONResponse({"object": "list", "data": list(names.list())})

    @app.get("/v1/models/{name:path}")
    def model(name: str) -> dict[str, Any]:
        return names.find(name)

    @app.get("/health")
    async def health() -> Response:
        status = "closed" if engine.is_closed else "ok"
        return JSONResponse({"status": status}, 503 if engine.is_closed else 200)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type=MEDIA_TYPE)

    return app
