"""A web server for the application, and how it ends."""

from __future__ import annotations

import asyncio
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

import uvicorn

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator
    from types import FrameType

    from fastapi import FastAPI

    from lag_engine.model.engine import LAGEngine

SECONDS_TO_FINISH = 3
"""After Ctrl-C, running answers have this long before the engine ends them with an error."""


class WebServer(uvicorn.Server):
    """Serves until Ctrl-C or a signal to end, then finishes; another one ends the process at once.

    Signals stay as they are then: none is passed on as an exception, at which half of what runs
    would tell of having been cut.

    Args:
        app: what is served.
        engine: of the app; closed if answers run for too long at the end.
        log_level: of what the server tells.
    """

    def __init__(self, app: FastAPI, engine: LAGEngine, *, log_level: str) -> None:
        # The engine ends answers. What is left then is a client that does not read or send on.
        super().__init__(
            uvicorn.Config(
                app, log_level=log_level, timeout_graceful_shutdown=2 * SECONDS_TO_FINISH
            )
        )
        self._engine = engine

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Has `handle_exit` called by signals to end; in the main thread."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.handle_exit)
        yield

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begins to end, and leaves the next signal to the system."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Waits for answers, so long."""
        loop = asyncio.get_running_loop()
        loop.call_later(SECONDS_TO_FINISH, loop.run_in_executor, None, self._engine.close)
        await super().shutdown(sockets)
