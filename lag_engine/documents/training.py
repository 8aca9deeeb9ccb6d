"""Trains many LoRA adapters of one shape at once: stacked factors, one forward and backward.

Row ``g`` of a batch updates adapter ``g`` only: the loss is the sum of the adapters' own mean
losses, the optimiser is elementwise and the gradient is clipped per adapter, so each adapter comes
out as if trained alone.

Besides the usual loss on tokens, an adapter can be taught to be *silent*: on tokens marked so, the
squared size of its update relative to the base module's output is penalised. Routing reads the size
of an update (``methods.md``, section 1), so an adapter that is silent on foreign text does not
attract its tokens. Nothing like it is in the LAG paper; leave ``silence`` at 0 for its training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lag_engine.adapters import LoraModule
from lag_engine.documents.batches import StackedBatch
from lag_engine.documents.stacked_lora import StackedLora, stacked
from lag_engine.documents.token_losses import predicted
from lag_engine.documents.training_options import Precision, TrainingOptions
from lag_engine.errors import AdapterError

__all__ = ["StackedBatch", "StackedLora", "StepLosses", "TrainingOptions", "train_stacked"]


class StepLosses(NamedTuple):
    """Each adapter's losses of one step.

    Attributes:
        tokens: On the tokens (G,).
        silence: The silence penalty (G,).
        is_running: False where the adapter was stopped before this step (G,).
    """

    tokens: Tensor
    silence: Tensor
    is_running: Tensor


def train_stacked(
    model: nn.Module,
    batches: Iterable[StackedBatch],
    *,
    count: int,
    steps: int,
    targets: Sequence[str],
    options: TrainingOptions,
    seeds: Sequence[int] | None = None,
    on_step: Callable[[int, StepLosses], None] | None = None,
) -> list[dict[str, LoraModule]]:
    """Trains ``count`` adapters on ``steps`` batches and leaves the model as it was.

    Args:
        model: A causal LM; frozen meanwhile.
        batches: At least ``steps`` batches of ``count`` adapters each.
        count: G, the number of adapters.
        steps: Optimiser steps; fewer are made once every adapter has reached ``stop_loss``.
        targets: Full dotted paths of the ``nn.Linear`` modules to adapt.
        options: Rank, rates and penalties.
        seeds: Of each adapter's start, G of them; None: as the options say.
        on_step: Called after every step with its number and losses.

    Returns:
        For each adapter its modules by dotted path, float32.

    Raises:
        AdapterMismatchError: A target is missing, named twice, not an ``nn.Linear``, the output
            embeddings (which see the kept tokens only), or of another dtype than ``precision``.
        AdapterError: There are fewer than ``steps`` batches, or one is not ``count`` adapters'.
    """
    with (
        torch.inference_mode(mode=False),
        torch.enable_grad(),
        stacked(model, targets, count, options, seeds) as layers,
    ):
        optimizer = _optimizer(layers.values(), options)
        finished = _Finished(layers, count, options)
        for step, batch in enumerate(_checked(batches, count, steps)):
            for group in optimizer.param_groups:
                group["lr"] = options.rate(step, steps)
            tokens, silence = _losses(model, list(layers.values()), batch, options.precision)
            (tokens + options.silence * silence).sum().backward()
            if options.clip is not None:
                _clip_each(list(layers.values()), options.clip)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses = StepLosses(tokens.detach(), silence.detach(), finished.is_running.clone())
            if on_step is not None:
                on_step(step, losses)
            if finished.look(step, losses.tokens):
                break
        return [finished.adapters.get(g) or _adapter(layers, g) for g in range(count)]


def _adapter(layers: Mapping[str, StackedLora], g: int) -> dict[str, LoraModule]:
    return {name: layer.adapter(g) for name, layer in layers.items()}


def _optimizer(layers: Iterable[StackedLora], options: TrainingOptions) -> torch.optim.Optimizer:
    """An elementwise optimiser over the factors that are trained."""
    layers = list(layers)
    decays = {"lora_A": options.lora_a_decay, "lora_B": options.lora_b_decay}
    groups = [
        {"params": [getattr(layer, factor) for layer in layers], "weight_decay": decay}
        for factor, decay in decays.items()
        if factor == "lora_B" or not options.shared_lora_A
    ]
    if options.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=options.learning_rate)
    return torch.optim.AdamW(groups, lr=options.learning_rate)


class _Finished:
    """The adapters that have reached the stop loss, as they were then.

    Later steps still move their rows of the stack, which nobody reads any more: so an adapter is
    the same whether the others stop with it or not.
    """

    def __init__(
        self, layers: Mapping[str, StackedLora], count: int, options: TrainingOptions
    ) -> None:
        self.adapters: dict[int, dict[str, LoraModule]] = {}
        self.is_running = torch.ones(count, dtype=torch.bool)
        self._layers = layers
        self._options = options
        self._window: list[Tensor] = []

    def look(self, step: int, losses: Tensor) -> bool:
        """Keeps the adapters that have reached the loss (G,); returns whether all have."""
        if self._options.stop_loss is None:
            return False
        self._window.append(losses)
        if (step + 1) % self._options.stop_window:
            return False
        means = torch.stack(self._window).mean(0).cpu()
        self._window.clear()
        for g in (self.is_running & (means <= self._options.stop_loss)).nonzero().flatten():
            self.adapters[int(g)] = _adapter(self._layers, int(g))
            self.is_running[g] = False
        return not self.is_running.any()


def _checked(batches: Iterable[StackedBatch], count: int, steps: int) -> Iterator[StackedBatch]:
    """The first ``steps`` batches, each of ``count`` adapters."""
    taken = 0
    for taken, batch in enumerate(islice(batches, steps), start=1):
        shapes = [tuple(part.shape) for part in batch]
        if len(set(shapes)) > 1 or len(shapes[0]) != 3 or shapes[0][0] != count:
            raise AdapterError(
                f"Expected ids, weights and silent of shape (G, B, T) with G = {count} adapters",
                f"batch {taken} has shapes {', '.join(map(str, shapes))}",
                "give every adapter its own rows, as many for one as for another",
            )
        yield batch
    if taken < steps:
        raise AdapterError(
            f"Expected {steps} batches, one for each step",
            f"the batches ended after {taken}",
            "give as many batches as steps, or train for fewer steps",
        )


def _losses(
    model: nn.Module, layers: list[StackedLora], batch: StackedBatch, precision: Precision
) -> tuple[Tensor, Tensor]:
    """Per adapter: weighted mean cross entropy, and the mean silence penalty over modules."""
    penalised = bool(batch.silent.any())
    silent = batch.silent[:, :, :-1].flatten(1).float().to(layers[0].lora_B.device)
    for layer in layers:
        layer.silent = silent if penalised else None
    tokens = predicted(model, batch, precision).losses()
    if not penalised:
        return tokens, torch.zeros_like(tokens)
    silence = torch.stack([layer.penalty for layer in layers if layer.penalty is not None]).mean(0)
    return tokens, silence


def _clip_each(layers: list[StackedLora], limit: float) -> None:
    """Scales each adapter's gradient, over all its modules, to at most ``limit``."""
    gradients = [p.grad for layer in layers for p in (layer.lora_A, layer.lora_B)]
    present = [g for g in gradients if g is not None]
    norms = torch.stack([g.flatten(1).square().sum(-1) for g in present]).sum(0).sqrt()  # (G,)
    scale = (limit / norms.clamp(min=1e-12)).clamp(max=1.0)
    for gradient in present:
        gradient.mul_(scale.reshape(-1, 1, 1))
