"""Trains latent adapters together with the logits of the passages that mix them, or these alone."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lag_engine.documents.grouping import Work
from lag_engine.documents.hooked_updates import frozen, hooked
from lag_engine.documents.latent_factors import LatentFactors
from lag_engine.documents.latent_routing import RoutingTable, mixing_weights, noise_of
from lag_engine.documents.polyprag_settings import PolyPRAGSettings
from lag_engine.documents.token_losses import predicted
from lag_engine.documents.training import StackedBatch


class LatentStep(NamedTuple):
    """One step: some passages' sequences.

    Attributes:
        group: Which group of passages.
        rows: The passages' rows in the routing table; G of them.
        seeds: Of their noise.
        number: How many steps these passages had before.
        batch: Their sequences (G, B, T).
    """

    group: int
    rows: Sequence[int]
    seeds: Sequence[int]
    number: int
    batch: StackedBatch


def steps_of(
    groups: Sequence[Sequence[Work]],
    epochs_of: Sequence[Sequence[StackedBatch]],
    *,
    epochs: int,
    seed: int,
) -> Iterator[LatentStep]:
    """Yields the steps of some groups of passages: all of them in each epoch, shuffled.

    Args:
        groups: Passages that share their steps; their rows follow each other in the table.
        epochs_of: Each group's batches of one epoch.
        epochs: Passes over everything.
        seed: Of the order.
    """
    starts = [sum(map(len, groups[:index])) for index in range(len(groups))]
    numbers = [0] * len(groups)
    visits = [(g, batch) for g, batches in enumerate(epochs_of) for batch in batches]
    for epoch in range(epochs):
        for g, batch in random.Random(seed + epoch).sample(visits, len(visits)):
            rows = range(starts[g], starts[g] + len(groups[g]))
            yield LatentStep(g, rows, [item.seed for item in groups[g]], numbers[g], batch)
            numbers[g] += 1


def train_mixtures(
    model: nn.Module,
    steps: Iterable[LatentStep],
    *,
    factors: LatentFactors,
    table: RoutingTable,
    settings: PolyPRAGSettings,
    on_step: Callable[[LatentStep, Tensor], None],
) -> None:
    """Trains the logits of a table, and the factors where they ask for gradients.

    A passage's logits move in its own steps only: by an Adam that leaves other rows alone.

    Args:
        model: A causal LM; frozen meanwhile, and given back as it was.
        steps: What to train on, in order.
        factors: The latent adapters.
        table: The logits.
        settings: Rates and sparsity.
        on_step: Called after each step with it and its passages' losses (G,).
    """
    precision = settings.forward_precision(model)
    with torch.inference_mode(mode=False), torch.enable_grad(), frozen(model):
        optimizers = _optimizers(factors, table, settings)
        for step in steps:
            logits = table.logits(torch.tensor(list(step.rows), device=table.weight.device))
            weights = mixing_weights(
                logits,
                top_k=settings.top_k,
                noise=noise_of(step.seeds, step.number, logits),
                temperature=settings.temperature,
            )
            with hooked(model, factors.updates(weights)):
                losses = predicted(model, step.batch, precision).losses()
            losses.sum().backward()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            on_step(step, losses.detach())


def _optimizers(
    factors: LatentFactors, table: RoutingTable, settings: PolyPRAGSettings
) -> list[torch.optim.Optimizer]:
    made: list[torch.optim.Optimizer] = [
        torch.optim.SparseAdam(list(table.parameters()), lr=settings.routing_rate)
    ]
    trained = [factor for factor in factors.parameters() if factor.requires_grad]
    if trained:
        decay = settings.weight_decay
        made.append(torch.optim.AdamW(trained, lr=settings.learning_rate, weight_decay=decay))
    return made
