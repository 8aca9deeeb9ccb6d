"""The pieces of work that are timed: forward passes of a model, and rounds of them in turns."""

from __future__ import annotations

import statistics
import time
from argparse import ArgumentTypeError
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from transformers import DynamicCache, LlamaForCausalLM

CONTEXT = 16
"""Tokens that are read before the first step of decoding."""

WORKS = ("decode", "prefill", "batch of 8, one plan", "batch of 8, eight plans")

Forward = Callable[[LlamaForCausalLM], float]
"""Runs a model forward; returns the seconds of one step, or of one prompt."""


class Variant(NamedTuple):
    """One way to do the work.

    Attributes:
        run: does it once; returns seconds.
        rounds: how often at most.
        is_warmed: whether a first run is not counted.
    """

    run: Callable[[], float]
    rounds: int
    is_warmed: bool = True


def works(text: str, known: Sequence[str] = WORKS) -> list[str]:
    """Reads some of the known `WORKS` from `decode+prefill`; each once."""
    found = list(dict.fromkeys(text.split("+")))
    if not set(found) <= set(known):
        raise ArgumentTypeError(f"expected some of {'+'.join(known)!r}; found {text!r}")
    return found


def work_of(name: str, *, prompt: int, steps: int) -> Forward:
    """Returns one of the `WORKS`.

    Args:
        name: which.
        prompt: tokens that a prefill reads.
        steps: of decoding, whose median counts.
    """
    if name == "prefill":
        return lambda model: _read(model, prompt)
    return lambda model: _decode(model, 8 if name.startswith("batch") else 1, steps)


def in_turns(variants: Mapping[str, Variant]) -> dict[str, list[float]]:
    """Returns each variant's milliseconds; they take turns within a round."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    for name, variant in _turns(variants):
        times[name].append(1e3 * variant.run())
    return times


def _turns(variants: Mapping[str, Variant]) -> Iterator[tuple[str, Variant]]:
    for variant in variants.values():
        if variant.is_warmed:
            variant.run()
    for round_index in range(max(variant.rounds for variant in variants.values())):
        yield from ((n, v) for n, v in variants.items() if round_index < v.rounds)


@torch.inference_mode()
def _decode(model: LlamaForCausalLM, n_rows: int, n_steps: int) -> float:
    vocabulary, cache = model.config.vocab_size, DynamicCache()
    model(torch.randint(vocabulary, (n_rows, CONTEXT)), past_key_values=cache, use_cache=True)
    steps = [torch.randint(vocabulary, (n_rows, 1)) for _ in range(n_steps)]
    return statistics.median(
        [_seconds(lambda: model(ids, past_key_values=cache)) for ids in steps]  # noqa: B023
    )


@torch.inference_mode()
def _read(model: LlamaForCausalLM, n_tokens: int) -> float:
    ids = torch.randint(model.config.vocab_size, (1, n_tokens))
    return _seconds(lambda: model(ids, use_cache=True, logits_to_keep=1))


def _seconds(work: Callable[[], object]) -> float:
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    before = clock()
    work()
    return clock() - before
