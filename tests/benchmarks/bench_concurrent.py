"""Many requests at once against one after another: wall time, answers, and cancelling.

LAGChatModel on lag-tiny is asked with `ainvoke`, mixed plans; then all at once, with half of them
cancelled. Rounds of the two ways take turns in one process.
"""

from __future__ import annotations

import asyncio
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from itertools import cycle, islice
from typing import Any

from common import Spread, compared, count, one_thread, open_report, parsed, parser, write_json

from lag_engine import tiny
from lag_integrations.langchain import LAGChatModel

MODES = ("lag", "base", "spectr", "arrow")


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measures, prints and returns the report."""
    options = _options(argv)
    facts, console = open_report()
    with one_thread():
        report = asyncio.run(_measure(options))
    alone, together = report["alone_seconds"], report["together_seconds"]
    console.print(
        f"{options.requests} ainvoke, plans {', '.join(MODES)}; median (quartiles) of "
        f"{options.rounds} rounds\n"
        f"one after another {alone.text(3)} s\n"
        f"all at once       {together.text(3)} s, x {report['ratio'].text(3)}\n"
        f"equal answers     {report['equal']} of {options.requests * options.rounds}\n"
        f"half cancelled    {report['cancelled']} of them raised CancelledError; steps with a "
        f"cancelled request afterwards: {report['steps_after_cancel']}; the other "
        f"{report['survivors']} answered as before: {report['survivors_equal']}",
        soft_wrap=True,
    )
    full = {"program": "bench_concurrent", "machine": facts, "settings": vars(options), **report}
    write_json(options.json, full)
    return full


async def _measure(options: Namespace) -> dict[str, Any]:
    models = [LAGChatModel(mode=mode, max_tokens=24) for mode in MODES]
    questions = [q.prompt for q in islice(cycle(tiny.questions()), options.requests)]
    asks = [(models[i % len(models)], question) for i, question in enumerate(questions)]
    expected = [(await model.ainvoke(question)).content for model, question in asks]
    alone, together, equal = [], [], 0
    for _ in range(options.rounds):
        started = time.perf_counter()
        for model, question in asks:
            await model.ainvoke(question)
        alone.append(time.perf_counter() - started)
        started = time.perf_counter()
        answers = await asyncio.gather(*(model.ainvoke(question) for model, question in asks))
        together.append(time.perf_counter() - started)
        equal += sum(a.content == e for a, e in zip(answers, expected, strict=True))
    return {
        "alone_seconds": Spread.of(alone),
        "together_seconds": Spread.of(together),
        "ratio": compared(together, alone),
        "equal": equal,
        **await _cancel_half(asks, expected),
    }


async def _cancel_half(
    asks: Sequence[tuple[LAGChatModel, str]], expected: Sequence[Any]
) -> dict[str, Any]:
    """Cancels every second request while all are decoded, and counts the steps they still take."""
    engine = asks[0][0].engine
    scheduler = engine._runtime._scheduler
    cancelled_seats: list[int] = []
    loop, is_busy = asyncio.get_running_loop(), asyncio.Event()

    def count(*_: object) -> None:
        seats = scheduler._decoder.seats if scheduler._decoder else ()
        cancelled_seats.append(sum(seat.is_cancelled() for seat in seats))
        if len(seats) > min(len(asks), scheduler._max_batch) // 2:
            loop.call_soon_threadsafe(is_busy.set)

    handle = engine.model.register_forward_pre_hook(count)
    tasks = [asyncio.create_task(model.ainvoke(question)) for model, question in asks]
    await is_busy.wait()
    for task in tasks[::2]:
        task.cancel()
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    handle.remove()
    survivors = [end.content for end in ends[1::2] if not isinstance(end, BaseException)]
    return {
        "cancelled": sum(isinstance(end, asyncio.CancelledError) for end in ends[::2]),
        "steps_after_cancel": sum(n > 0 for n in cancelled_seats),
        "survivors": len(survivors),
        "survivors_equal": survivors == list(expected[1::2]),
    }


def _options(argv: Sequence[str] | None) -> Namespace:
    arguments = parser(__doc__)
    arguments.add_argument("--requests", type=count, default=32)
    arguments.add_argument("--rounds", type=count, default=5)
    return parsed(arguments, argv, requests=12, rounds=2)


if __name__ == "__main__":
    main(sys.argv[1:])
