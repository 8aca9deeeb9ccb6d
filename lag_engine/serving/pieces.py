"""Several answers as they are written, in one asynchronous stream; closing it ends them all."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Coroutine, Sequence

    from starlette.requests import Request

    from lag_engine.model.generation import Generation, StreamPiece

T = TypeVar("T")


class ClientGoneError(Exception):
    """Nobody waits for the reply any more."""


class Pieces:
    """The pieces of all answers in the order they come, each with the number of its answer.

    The sources run from the start, side by side. The first error of one ends all.

    Args:
        sources: one for each answer.
    """

    def __init__(self, sources: Sequence[AsyncGenerator[StreamPiece, None]]) -> None:
        self._events: asyncio.Queue[tuple[int, StreamPiece | Exception | None]] = asyncio.Queue()
        self._first: tuple[int, StreamPiece] | None = None
        self._n_open = len(sources)
        self._tasks = [asyncio.create_task(self._run(i, s)) for i, s in enumerate(sources)]

    async def ready(self) -> None:
        """Waits for the first piece: what is wrong with a request is known by then.

        Raises:
            Exception: whatever the sources raised.
        """
        self._first = await anext(self)

    async def generations(self) -> list[Generation]:
        """The whole answers, in their order."""
        whole = {i: piece.generation async for i, piece in self if piece.generation is not None}
        return [whole[i] for i in sorted(whole)]

    async def aclose(self) -> None:
        """Ends the answers that are not finished."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[int, StreamPiece]:
        if self._first is not None:
            first, self._first = self._first, None
            return first
        while self._n_open:
            index, event = await self._events.get()
            if isinstance(event, Exception):
                raise event
            if event is not None:
                return index, event
            self._n_open -= 1
        raise StopAsyncIteration

    async def _run(self, index: int, source: AsyncGenerator[StreamPiece, None]) -> None:
        try:
            async with aclosing(source):
                async for piece in source:
                    self._events.put_nowait((index, piece))
            self._events.put_nowait((index, None))
        except Exception as error:
            self._events.put_nowait((index, error))


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Returns what the work returns; cancels it when the client hangs up.

    Args:
        request: whose body was read.
        work: a coroutine that may be cancelled anywhere.

    Raises:
        ClientGoneError: the client hung up first.
    """
    task, gone = asyncio.create_task(work), asyncio.create_task(_hang_up(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGoneError
        return task.result()
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _hang_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
