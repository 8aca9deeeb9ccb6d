"""The one thread that owns the model: work queues up here, and results go back to the callers.

A model's forward, its cache and the plans that are active on it are shared state. Instead of locks
around each, everything that touches them runs on this thread: one job after another, and between
jobs one step after another of whatever decodes in the background.
"""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch

from lag_engine.cancellation import CancelScope
from lag_engine.errors import GenerationError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

R = TypeVar("R")
T = TypeVar("T")


class Background(Protocol):
    """Work in steps that the worker does whenever no job waits."""

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do until a job brings something."""
        ...

    def step(self) -> None:
        """Does one step; what goes wrong in it is the background's to tell."""
        ...


class Job:
    """One piece of work, seen from both threads.

    Args:
        work: runs on the worker; it gets this job, to `emit` results and to ask whether to go on.
        is_deferred: the work only begins something, whose end calls `finish` or `fail`.
    """

    def __init__(self, work: Callable[[Job], Any], *, is_deferred: bool = False) -> None:
        self._work = work
        self._is_deferred = is_deferred
        self._cancelled = threading.Event()
        self.results: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()

    @property
    def is_cancelled(self) -> bool:
        """Whether nobody waits for the rest any more."""
        return self._cancelled.is_set()

    def cancel(self) -> None:
        """Asks the work to end at its next step; whoever waits for it stops waiting."""
        self._cancelled.set()
        self.results.put(("error", _cancelled()))

    def emit(self, item: Any) -> None:
        """Hands an intermediate result to the caller; never waits for it."""
        self.results.put(("item", item))

    def finish(self, result: Any) -> None:
        """Hands the last result to the caller."""
        self.results.put(("result", result))

    def fail(self, error: BaseException) -> None:
        """Ends the job with an error, run or not."""
        # First the error, then the flag: what cancelled work returns must not arrive before it.
        self.results.put(("error", error))
        self._cancelled.set()

    def run(self) -> None:
        """Runs the work; its result or its error goes to the caller, never into this thread."""
        try:
            result = self._work(self)
        except BaseException as error:
            self.fail(error)
        else:
            if not self._is_deferred:
                self.finish(result)


class Worker:
    """A daemon thread that runs jobs in the order they came, in inference mode.

    Args:
        background: stepped while no job waits; None for none.
        name: of the thread.
    """

    def __init__(self, background: Background | None = None, name: str = "lag-engine") -> None:
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._waiting: set[Job] = set()
        self._is_closed = False
        self._thread = threading.Thread(
            target=_serve, args=(self._jobs, background), name=name, daemon=True
        )
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
        result: R = self._result(Job(work))
        return result

    def begin(self, work: Callable[[Job], None], result_type: type[T]) -> T:
        """Runs the work, which only begins something, and waits until that has ended.

        Raises:
            GenerationError: the worker is closed, or was closed before.
            BaseException: whatever the work raised, or the job failed with.
        """
        result = self._result(Job(work, is_deferred=True))
        assert isinstance(result, result_type)
        return result

    def stream(self, work: Callable[[Job], None], item_type: type[T]) -> Generator[T, None, None]:
        """Yields what the begun work emits; begins at the first `next`, cancels when closed.

        Raises:
            GenerationError: the worker is closed, or was closed before the work ended.
            BaseException: whatever the work raised, or the job failed with.
        """
        job = Job(work, is_deferred=True)
        try:
            self._submit(job)
            while (result := _next_result(job))[0] == "item":
                assert isinstance(result[1], item_type)
                yield result[1]
        finally:
            self._forget(job)

    def close(self) -> None:
        """Fails running and waiting jobs and ends the thread."""
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

    def _result(self, job: Job) -> Any:
        try:
            self._submit(job)
            return _next_result(job)[1]
        finally:
            self._forget(job)

    def _submit(self, job: Job) -> None:
        with self._lock:
            if self._is_closed:
                raise _closed()
            self._waiting.add(job)
            self._jobs.put(job)
        CancelScope.join(job)

    def _forget(self, job: Job) -> None:
        job.cancel()
        with self._lock:
            self._waiting.discard(job)


def _serve(jobs: queue.SimpleQueue[Job | None], background: Background | None) -> None:
    while True:
        if background is None or background.is_idle or not jobs.empty():
            job = jobs.get()
            if job is None:
                return
            if not job.is_cancelled:
                with torch.inference_mode():
                    job.run()
            del job  # an idle thread must not keep the last request's tensors
        else:
            with torch.inference_mode():
                background.step()


def _next_result(job: Job) -> tuple[str, Any]:
    kind, value = job.results.get()
    if kind == "error":
        raise value
    return kind, value


def _cancelled() -> GenerationError:
    return GenerationError(
        "Expected somebody to wait for the answer", "it was cancelled", "Ask again if it is needed"
    )


def _closed() -> GenerationError:
    return GenerationError(
        "Expected an open engine",
        "this engine was closed",
        "Make a new one, or close it only when all requests are answered",
    )
