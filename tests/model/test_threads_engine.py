"""Many threads, one model: every answer is the one its request gets alone."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

N_REQUESTS = 200
PROMPTS = [f"Question {i}?"[: 4 + i % 7] for i in range(10)]


@pytest.fixture
def plans(engine):
    return [engine.plan("lag", retrieve_k=3), engine.plan("oracle", adapters=["task2", "doc5"])]


def test_two_threads_with_different_plans_get_the_answers_they_get_alone(engine, plans):
    alone = {
        (i, prompt): engine.generate(prompt, plan=plan, max_new_tokens=3).token_ids
        for i, plan in enumerate(plans)
        for prompt in PROMPTS
    }
    assert any(alone[0, prompt] != alone[1, prompt] for prompt in PROMPTS)
    wrong, served = [], []

    def ask(i):
        for n in range(N_REQUESTS // 2):
            prompt = PROMPTS[n % len(PROMPTS)]
            if n % 5:
                answer = engine.generate(prompt, plan=plans[i], max_new_tokens=3)
            else:
                answer = list(engine.stream(prompt, plan=plans[i], max_new_tokens=3))[-1].generation
            served.append(i)
            if answer.token_ids != alone[i, prompt] or answer.plan != plans[i]:
                wrong.append((i, prompt))

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(served) == N_REQUESTS


def test_every_kind_of_call_may_come_from_any_thread(engine, plans):
    ids = torch.tensor([[1, 50, 51, 52]])
    messages = [{"role": "user", "content": "hi"}]
    calls = [
        lambda: engine.logits(ids, plan=plans[0]).sum().item(),
        lambda: engine.score("a", "bc", plan=plans[1]),
        lambda: engine.tokenize_messages(messages),
        lambda: [a.text for a in engine.generate_batch(PROMPTS[:2], plans=plans, max_new_tokens=2)],
        lambda: "".join(p.text for p in engine.stream(messages, max_new_tokens=4)),
    ]
    expected = [call() for call in calls]
    with ThreadPoolExecutor(6) as pool:
        results = [pool.submit(call) for call in calls * 6]
        assert [result.result() for result in results] == expected * 6


def test_a_library_may_grow_while_threads_ask(engine, text_library, random_adapter):
    stop = threading.Event()
    errors = []

    def ask():
        while not stop.is_set():
            try:
                engine.generate("a", max_new_tokens=2, trace=True)
            except Exception as error:
                errors.append(error)
                return

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for i in range(5):
        text_library.add(random_adapter(engine.model, "task", 60 + i), name=f"new{i}", kind="task")
        text_library.remove(f"new{i}")
    stop.set()
    for thread in threads:
        thread.join()
    assert errors == []


def test_gradients_stay_on_in_the_callers_thread(engine):
    engine.generate("a", max_new_tokens=2)
    assert next(engine.stream("a", max_new_tokens=4)).text
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()
    assert torch.ones(1, requires_grad=True).mul(2).requires_grad
