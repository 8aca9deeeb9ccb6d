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
    for _ in worker.stream(lambda job: [job.emit(i) for i in range(3)], int):
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
    stream = worker.stream(lambda job: [job.emit(i) for i in range(100)], int)
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
