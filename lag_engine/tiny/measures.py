"""Exact match with its interval, and routing accuracy, from the answers of one system."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch

from lag_engine.model.generation import Generation
from lag_engine.routing.trace import layer_of
from lag_engine.tiny.shipped import TinyDocument, TinyQuestion

RESAMPLES = 1000


def exact_match(asked: Sequence[TinyQuestion], answers: Sequence[str]) -> dict[str, Any]:
    """Exact match by task and over all, with a bootstrap interval of 95 %."""
    hits: dict[str, list[float]] = defaultdict(list)
    for question, answer in zip(asked, answers, strict=True):
        for label in (question.task, "mean"):
            hits[label].append(float(answer == question.answer))
    return {label: interval(values) for label, values in hits.items()}


def interval(values: list[float]) -> dict[str, float]:
    """The mean of the values with its bootstrap interval of 95 %."""
    rng = random.Random(0)
    means = sorted(sum(rng.choices(values, k=len(values))) / len(values) for _ in range(RESAMPLES))
    return {
        "score": sum(values) / len(values),
        "low": means[int(0.025 * RESAMPLES)],
        "high": means[int(0.975 * RESAMPLES) - 1],
        "n": len(values),
    }


def routing_accuracy(
    asked: Sequence[TinyQuestion],
    gold: Sequence[TinyDocument],
    answers: Sequence[Generation],
) -> dict[str, Any]:
    """Share of decisions for the gold adapter, by slot, and within it by task, layer and module.

    Args:
        asked: The questions.
        gold: The document that answers each.
        answers: One system's, with their traces.
    """
    counts: dict[tuple[str, ...], list[int]] = defaultdict(lambda: [0, 0])
    for question, document, answer in zip(asked, gold, answers, strict=True):
        assert answer.trace is not None
        for decision in answer.trace.decisions:
            name = question.task_adapter if decision.slot == "task" else document.adapter
            row = decision.names.index(name) if name in decision.names else -2
            right = decision.rows[:, 0] == row  # (T,)
            decisive = right[len(answer.prompt_token_ids) - 1 :]
            module = decision.module.rsplit(".", 1)[-1]
            _count(counts, (decision.slot, "all tokens"), right)
            for label in (
                "answer tokens",
                question.task,
                f"layer {layer_of(decision.module)}",
                module,
            ):
                _count(counts, (decision.slot, label), decisive)
    shares: dict[str, Any] = defaultdict(dict)
    for (slot, label), (right_count, total) in counts.items():
        shares[slot][label] = right_count / max(1, total)
    return dict(shares)


def _count(
    counts: dict[tuple[str, ...], list[int]], key: tuple[str, ...], right: torch.Tensor
) -> None:
    counts[key][0] += int(right.sum())
    counts[key][1] += right.numel()
