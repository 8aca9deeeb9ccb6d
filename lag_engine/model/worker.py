"""The one thread that owns the model: work queues up here, and results go back to the callers.

A model's forward, its cache and the plans that are active on it are shared state. Instead of locks
around each, everything that touches them runs on this thread, one job after another.
"""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from lag_engine.errors import GenerationError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

R = TypeVar("R")
T = TypeVar("T")


class Job:
    """One piece of work, seen from both threads.

    Args:
        work: runs on the worker; it gets this job, to `emit` results and to ask whether to go on.
    """

    def __init__(self, work: Callable[[Job], Any]) -> None:
        self._work = work
        self._cancelled = threading.Event()
        self.results: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()

    @property
    def is_cancelled(self) -> bool:
        """Whether nobody waits for the rest any more."""
        return self._cancelled.is_set()

    def cancel(self) -> None:
        """Asks the work to end at its next step."""
        self._cancelled.set()

    def emit(self, item: Any) -> None:
        """Hands an intermediate result to the caller; never waits for it."""
        self.results.put(("item", item))

    def run(self) -> None:
        """Runs the work; its result or its error goes to the caller, never into this thread."""
        try:
            self.results.put(("result", self._work(self)))
        except BaseException as error:
            self.results.put(("error", error))

    def fail(self, error: Exception) -> None:
        """Ends the job with an error, run or not."""
        # First the error, then the flag: what cancelled work returns must not arrive before it.
        self.results.put(("error", error))
        self.cancel()


class Worker:
    """A daemon thread that runs jobs in the order they came, in inference mode.

    Args:
        name: of the thread.
    """

    def __init__(self, name: str = "lag-engine") -> None:
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._waiting: set[Job] = set()
        self._is_closed = False
        self._thread = threading.Thread(target=_serve, args=(self._jobs,), name=name, daemon=True)
        self._thread.start()

    @property
    def is_closed(self) -> bool:
        """Whether the worker takes no more work."""
        return self._is_closed

    def call(self, work: Callable[[Job], R]) -> R:
        """Runs the work on the worker's thread and waits for it.

        Raises:
            GenerationError: the worker is closed, or was closed before the work ended.
            BaseException: whatever the work raised.
        """
        job = self._submit(work)
        try:
            result: R = _next_result(job)[1]
            return result
        finally:
            self._forget(job)

    def stream(self, work: Callable[[Job], object], item_type: type[T]) -> Generator[T, None, None]:
        """Yields what the work emits; starts it at the first `next`, and cancels it when closed.

        Raises:
            GenerationError: the worker is closed, or was closed before the work ended.
            BaseException: whatever the work raised.
        """
        job = self._submit(work)
        try:
            while (result := _next_result(job))[0] == "item":
                assert isinstance(result[1], item_type)
                yield result[1]
        finally:
            self._forget(job)

    def close(self) -> None:
        """Ends the running job at its next step, fails the waiting ones and ends the thread."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            waiting = list(self._waiting)
            self._jobs.put(None)
        for job in waiting:
            job.fail(_closed())
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _submit(self, work: Callable[[Job], Any]) -> Job:
        job = Job(work)
        with self._lock:
            if self._is_closed:
                raise _closed()
            self._waiting.add(job)
            self._jobs.put(job)
        return job

    def _forget(self, job: Job) -> None:
        job.cancel()
        with self._lock:
            self._waiting.discard(job)


def _serve(jobs: queue.SimpleQueue[Job | None]) -> None:
    while (job := jobs.get()) is not None:
        if not job.is_cancelled:
            with torch.inference_mode():
                job.run()
        del job  # an idle thread must not keep the last request's tensors


def _next_result(job: Job) -> tuple[str, Any]:
    kind, value = job.results.get()
    if kind == "error":
        raise value
    return kind, value


def _closed() -> GenerationError:
    return GenerationError(
        "Expected an open engine",
        "this engine was closed",
        "Make a new one, or close it only when all requests are answered",
    )
