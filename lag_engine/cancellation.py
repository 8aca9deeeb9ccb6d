"""Ending work that somebody else waits for: what is begun inside a scope ends with it."""

from __future__ import annotations

import threading
from contextvars import ContextVar, Token
from typing import Protocol, Self
from weakref import WeakSet


class Cancellable(Protocol):
    """Work that can be ended from any thread."""

    def cancel(self) -> None:
        """Ends the work soon, and whoever waits for it at once."""
        ...


_current: ContextVar[CancelScope | None] = ContextVar("lag_cancel_scope", default=None)


class CancelScope:
    """A context in which everything that is begun can be cancelled together, from any thread."""

    def __init__(self) -> None:
        self._work: WeakSet[Cancellable] = WeakSet()
        self._lock = threading.Lock()
        self._token: Token[CancelScope | None] | None = None
        self.is_cancelled = False

    @staticmethod
    def join(work: Cancellable) -> None:
        """Puts the work into the scope of the caller's context, if there is one."""
        scope = _current.get()
        if scope is not None:
            scope.add(work)

    def cancel(self) -> None:
        """Cancels what was begun in the scope, and what will be."""
        with self._lock:
            self.is_cancelled = True
            begun = list(self._work)
        for work in begun:
            work.cancel()

    def add(self, work: Cancellable) -> None:
        """Puts the work into this scope; cancels it at once if the scope was cancelled."""
        with self._lock:
            self._work.add(work)
            is_late = self.is_cancelled
        if is_late:
            work.cancel()

    def __enter__(self) -> Self:
        self._token = _current.set(self)
        return self

    def __exit__(self, *error: object) -> None:
        assert self._token is not None
        _current.reset(self._token)
