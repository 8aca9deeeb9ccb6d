"""The worker: one thread runs everything, errors find their callers, closing is final."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from lag_engine.errors import GenerationError
from lag_engine.model.worker import Worker


@pytest.fixture
def worker():
    worker = Worker()
    yield worker
    worker.close()


def counting(job):
    """Emits 0, 1, 2 ... until nobody listens."""
    n = 0
    while not job.is_cancelled:
        job.emit(n)
        n += 1
        time.sleep(0.001)
    job.finish(None)


def emitting(n):
    def work(job):
        for i in range(n):
            job.emit(i)
        job.finish(None)

    return work


def test_all_work_runs_on_one_other_thread(worker):
    seen = []
    threads = [
        threading.Thread(target=lambda: seen.append(worker.call(lambda _: threading.get_ident())))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(seen)) == 1
    assert seen[0] != threading.get_ident()


def test_an_error_reaches_its_caller_and_the_next_call_works(worker):
    with pytest.raises(ZeroDivisionError):
        worker.call(lambda _: 1 / 0)
    assert worker.call(lambda _: 3) == 3


def test_an_error_in_a_stream_follows_the_items_before_it(worker):
    def work(job):
        job.emit(1)
        raise KeyError("late")

    stream = worker.stream(work, int)
    assert next(stream) == 1
    with pytest.raises(KeyError, match="late"):
        next(stream)


def test_inference_mode_stays_inside_the_worker(worker):
    assert worker.call(lambda _: torch.is_inference_mode_enabled())
    assert not torch.is_inference_mode_enabled()
    for _ in worker.stream(emitting(3), int):
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()


def test_a_stream_starts_at_its_first_item_and_ends_when_closed(worker):
    started = threading.Event()

    def work(job):
        started.set()
        counting(job)

    stream = worker.stream(work, int)
    assert worker.call(lambda _: 1) == 1
    assert not started.is_set()
    assert [next(stream), next(stream)] == [0, 1]
    stream.close()
    assert worker.call(lambda _: 2) == 2


def test_a_slow_reader_does_not_hold_the_worker(worker):
    stream = worker.stream(emitting(100), int)
    assert next(stream) == 0
    assert worker.call(lambda _: "free") == "free"
    assert list(stream) == list(range(1, 100))


def test_closing_fails_the_running_and_the_waiting_and_all_that_come_later():
    worker = Worker()
    stream = worker.stream(counting, int)
    assert next(stream) == 0
    errors = []

    def wait_in_line():
        try:
            worker.call(lambda _: 1)
        except GenerationError as error:
            errors.append(error)

    waiting = threading.Thread(target=wait_in_line)
    waiting.start()
    while not worker._jobs.qsize():
        time.sleep(0.001)
    worker.close()
    worker.close()
    waiting.join()
    assert len(errors) == 1
    with pytest.raises(GenerationError, match="closed"):
        list(stream)
    with pytest.raises(GenerationError, match="closed"):
        worker.call(lambda _: 1)
    assert not worker._thread.is_alive()


class Countdown:
    """Background work of n steps, each told to whoever asked for it."""

    def __init__(self):
        self.jobs = []

    @property
    def is_idle(self):
        return not self.jobs

    def step(self):
        for job, left in self.jobs:
            if left == 0:
                job.finish("done")
        self.jobs = [(job, left - 1) for job, left in self.jobs if left]


def test_begun_work_goes_on_in_steps_while_other_jobs_come_and_go():
    background = Countdown()
    worker = Worker(background)
    ends = []

    def begin(n):
        ends.append(worker.begin(lambda job: background.jobs.append((job, n)), str))

    threads = [threading.Thread(target=begin, args=(n,)) for n in (500, 3)]
    for thread in threads:
        thread.start()
    assert worker.call(lambda _: "between") == "between"
    for thread in threads:
        thread.join()
    assert ends == ["done"] * 2
    assert background.is_idle
    worker.close()


def test_begun_work_may_fail_at_once_or_later(worker):
    with pytest.raises(ZeroDivisionError):
        worker.begin(lambda _: 1 / 0, str)
    with pytest.raises(KeyError):
        worker.begin(lambda job: job.fail(KeyError("later")), str)
