"""A blocking iterator for asyncio: the loop stays free, and cancelling ends the iterator."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import closing, suppress
from typing import Any, TypeVar

from lag_engine.cancellation import CancelScope

T = TypeVar("T")


async def iterate(make: Callable[[], Iterator[T]]) -> AsyncGenerator[T, None]:
    """Yields what the iterator yields, which is made, run and closed on one thread of its own.

    When the consumer is cancelled or stops early, so is what the iterator waits for in an engine,
    and the iterator is closed: nothing goes on generating, or waits to, for nobody. Context
    variables are the caller's.

    Args:
        make: returns the iterator; a generator, so that closing it frees what it holds.

    Raises:
        BaseException: whatever `make` or the iterator raised.
    """
    pump = _Pump(make)
    context = contextvars.copy_context()
    threading.Thread(target=context.run, args=(pump.run,), daemon=True, name="lag-stream").start()
    try:
        while (event := await pump.events.get())[0] == "item":
            yield event[1]
        if event[0] == "error":
            raise event[1]
    finally:
        pump.scope.cancel()


class _Pump:
    def __init__(self, make: Callable[[], Iterator[Any]]) -> None:
        self.make = make
        self.loop = asyncio.get_running_loop()
        self.events: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
        self.scope = CancelScope()

    def run(self) -> None:
        try:
            with self.scope, closing(self.make()) as items:  # type: ignore[type-var]
                for item in items:
                    if self.scope.is_cancelled:
                        return
                    self._put("item", item)
            self._put("end", None)
        except BaseException as error:
            self._put("error", error)

    def _put(self, kind: str, value: Any) -> None:
        with suppress(RuntimeError):  # the loop may be closed: then nobody waits
            self.loop.call_soon_threadsafe(self.events.put_nowait, (kind, value))
