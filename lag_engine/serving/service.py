"""One engine as a service: from a checked request to its reply."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any

from fastapi.responses import JSONResponse, Response, StreamingResponse

from lag_engine.aio import iterate
from lag_engine.serving.conversation import chat_options, to_engine_messages
from lag_engine.serving.errors import as_json
from lag_engine.serving.metrics import Metrics
from lag_engine.serving.pieces import ClientGoneError, Pieces, unless_gone
from lag_engine.serving.replies import ChatReplies, CompletionReplies, Replies

if TYPE_CHECKING:
    from fastapi import Request
    from starlette.types import Receive, Scope, Send

    from lag_engine.model.engine import LAGEngine
    from lag_engine.model.generation import StreamPiece, TraceDetail
    from lag_engine.model.prompts import Prompt
    from lag_engine.serving.names import ModelNames
    from lag_engine.serving.schemas import (
        ChatRequest,
        CommonRequest,
        CompletionRequest,
    )

UNBOUNDED = 4096
"""The most tokens of an answer where neither the request nor the model's context has a limit."""

OPENAI_COMPLETION_TOKENS = 16
HTTP_CLIENT_CLOSED = 499


class Service:
    """Answers checked requests.

    Args:
        engine: what answers.
        names: of its models.
        trace: how much of the routing replies tell, where a request does not say.
    """

    def __init__(self, engine: LAGEngine, names: ModelNames, *, trace: TraceDetail) -> None:
        self.engine = engine
        self.names = names
        self.metrics = Metrics()
        self._trace = trace

    async def chat(self, request: ChatRequest, http: Request) -> Response:
        """The reply to POST /v1/chat/completions."""
        request.refuse_unsupported()
        whole = self.engine.context_length or UNBOUNDED
        options = {
            **request.sampling(),
            **chat_options(request),
            "max_new_tokens": request.max_completion_tokens or request.max_tokens or whole,
        }
        prompts = [to_engine_messages(request.messages)]
        return await self._answer(request, http, prompts, options, kind=ChatReplies)

    async def completion(self, request: CompletionRequest, http: Request) -> Response:
        """The reply to POST /v1/completions."""
        request.refuse_unsupported()
        options = {
            **request.sampling(),
            "max_new_tokens": request.max_tokens or OPENAI_COMPLETION_TOKENS,
        }
        if request.logprobs is not None:
            options["logprobs"] = request.logprobs
        return await self._answer(request, http, request.prompts, options, kind=CompletionReplies)

    async def _answer(
        self,
        request: CommonRequest,
        http: Request,
        prompts: Sequence[Prompt],
        options: dict[str, Any],
        *,
        kind: type[Replies],
    ) -> Response:
        trace = request.lag.trace or self._trace
        replies = kind(
            request.model,
            trace=trace,
            n_samples=request.n or 1,
            includes_usage=request.includes_usage,
        )
        headers = _headers(replies.id, request.unknown_fields)
        pieces = Pieces(
            [
                self.metrics.counted(
                    iterate(partial(self._start, request, prompt, trace != "none", each))
                )
                for prompt in prompts
                for each in _samples(request, options)
            ]
        )
        handed_over = False
        try:
            await unless_gone(http, pieces.ready())
            if request.stream:
                handed_over = True
                return EventStream(replies, pieces, headers, self.engine)
            generations = await unless_gone(http, pieces.generations())
            return JSONResponse(replies.whole(generations), headers=headers)
        except ClientGoneError:
            return Response(status_code=HTTP_CLIENT_CLOSED)
        finally:
            if not handed_over:
                await pieces.aclose()

    def _start(
        self, request: CommonRequest, prompt: Prompt, trace: bool, options: dict[str, Any]
    ) -> Iterator[StreamPiece]:
        """Starts one answer; on a thread of its own, since the library reads files."""
        plan = self.names.plan(request.model, request.lag)
        is_traced = trace and bool(plan.slots)
        return self.engine.stream(prompt, plan=plan, trace=is_traced, **options)


class EventStream(StreamingResponse):
    """Pieces as server-sent events in OpenAI's form; ends the answers when the client hangs up."""

    def __init__(
        self, replies: Replies, pieces: Pieces, headers: dict[str, str], engine: LAGEngine
    ) -> None:
        self.pieces = pieces
        super().__init__(
            _events(replies, pieces, engine),
            headers={**headers, "cache-control": "no-cache"},
            media_type="text/event-stream",
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the events."""
        async with aclosing(self.pieces):
            await super().__call__(scope, receive, send)


async def _events(replies: Replies, pieces: Pieces, engine: LAGEngine) -> AsyncIterator[str]:
    try:
        async for index, piece in pieces:
            for chunk in replies.chunks(index, piece):
                yield _event(chunk)
        for chunk in replies.last_chunks():
            yield _event(chunk)
    except Exception as error:  # the status is sent: the error can only be an event
        body, _ = as_json(error, engine)
        yield _event(body)
    yield "data: [DONE]\n\n"


def _event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False, separators=(',', ':'))}\n\n"


def _samples(request: CommonRequest, options: dict[str, Any]) -> list[dict[str, Any]]:
    """The options of each answer to a prompt: with a seed, n answers differ, and repeatably."""
    n = request.n or 1
    if request.seed is None:
        return [options] * n
    return [{**options, "seed": request.seed + i} for i in range(n)]


def _headers(reply_id: str, unknown: list[str]) -> dict[str, str]:
    headers = {"x-request-id": reply_id}
    if unknown:
        names = ", ".join(unknown).encode("unicode_escape").decode("ascii")
        headers["x-lag-ignored-fields"] = names[:1000]
    return headers
