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

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lag_engine.adapters import LoraModule
from lag_engine.errors import AdapterError, AdapterMismatchError

Precision = Literal["bf16", "fp32"]


class StackedBatch(NamedTuple):
    """One step's rows for G adapters, right-padded.

    Attributes:
        ids: Token ids (G, B, T).
        weights: Loss weight of each token as a target (G, B, T).
        silent: True where the adapter should not act (G, B, T).
    """

    ids: Tensor
    weights: Tensor
    silent: Tensor


@dataclass(frozen=True)
class TrainingOptions:
    """How stacked adapters are trained.

    Attributes:
        rank: R.
        alpha: ``scaling = alpha / rank``.
        learning_rate: AdamW's peak rate; linear warm-up over a tenth, then linear descent to zero.
        lora_a_decay: Weight decay on lora_A, which removes what is left of its random start.
        init_scale: lora_A's start as a multiple of PEFT's (uniform in ±1/sqrt(D_in)).
        silence: Weight of the silence penalty; 0 trains as PEFT does.
        clip: Largest gradient norm per adapter.
        seed: Adapter ``g`` starts from seed ``seed + g``: a shared start would make the
            ``projection`` score tie between adapters.
        precision: Of the forward pass: bfloat16 by autocast, or the model's own dtype, which must
            be float32 then. The adapters and the optimiser are float32 in both.
    """

    rank: int
    alpha: float
    learning_rate: float = 3e-3
    lora_a_decay: float = 0.0
    init_scale: float = 1.0
    silence: float = 0.0
    clip: float = 1.0
    seed: int = 0
    precision: Precision = "bf16"

    @property
    def scaling(self) -> float:
        """The factor of every update, as in PEFT."""
        return self.alpha / self.rank


class StepLosses(NamedTuple):
    """Each adapter's losses of one step: on tokens (G,) and the silence penalty (G,)."""

    tokens: Tensor
    silence: Tensor


class StackedLora(nn.Module):
    """A linear layer plus G low-rank updates, row group ``g`` of the input using update ``g``."""

    def __init__(self, base: nn.Linear, count: int, options: TrainingOptions) -> None:
        super().__init__()
        self.base = base
        self.scaling = options.scaling
        bound = options.init_scale / math.sqrt(base.in_features)
        starts = [
            torch.empty(options.rank, base.in_features).uniform_(
                -bound, bound, generator=torch.Generator().manual_seed(options.seed + g)
            )
            for g in range(count)
        ]
        device = base.weight.device
        self.lora_A = nn.Parameter(torch.stack(starts).to(device))  # (G, R, D_in)
        self.lora_B = nn.Parameter(
            torch.zeros(count, base.out_features, options.rank, device=device)
        )  # (G, D_out, R)
        self.silent: Tensor | None = None  # (G, B * T), set for one step
        self.penalty: Tensor | None = None  # (G,)

    def forward(self, x: Tensor) -> Tensor:
        """Base output plus updates; x is (G * B, T, D_in)."""
        out: Tensor = self.base(x)
        count = self.lora_A.shape[0]
        grouped = x.reshape(count, -1, x.shape[-1])  # (G, B * T, D_in)
        update = grouped @ self.lora_A.transpose(1, 2) @ self.lora_B.transpose(1, 2)
        update = self.scaling * update  # (G, B * T, D_out)
        if self.silent is not None:
            size = update.float().square().sum(-1)  # (G, B * T)
            base_size = out.detach().float().square().sum(-1).reshape(count, -1)
            silent_size = (base_size * self.silent).sum(-1)  # (G,)
            self.penalty = (size * self.silent).sum(-1) / silent_size.clamp(min=1e-6)
        return out + update.reshape(out.shape)


def train_stacked(
    model: nn.Module,
    batches: Iterable[StackedBatch],
    *,
    count: int,
    steps: int,
    targets: Sequence[str],
    options: TrainingOptions,
    on_step: Callable[[int, StepLosses], None] | None = None,
) -> list[dict[str, LoraModule]]:
    """Trains ``count`` adapters on ``steps`` batches and leaves the model as it was.

    Args:
        model: A causal LM; frozen meanwhile.
        batches: At least ``steps`` batches of ``count`` adapters each.
        count: G, the number of adapters.
        steps: Optimiser steps.
        targets: Full dotted paths of the ``nn.Linear`` modules to adapt.
        options: Rank, rates and penalties.
        on_step: Called after every step with its number and losses.

    Returns:
        For each adapter its modules by dotted path, float32.

    Raises:
        AdapterMismatchError: A target is missing, named twice, not an ``nn.Linear``, the output
            embeddings (which see the kept tokens only), or of another dtype than ``precision``.
        AdapterError: There are fewer than ``steps`` batches, or one is not ``count`` adapters'.
    """
    with _stacked(model, targets, count, options) as layers:
        optimizer = torch.optim.AdamW(
            [
                {
                    "params": [m.lora_A for m in layers.values()],
                    "weight_decay": options.lora_a_decay,
                },
                {"params": [m.lora_B for m in layers.values()], "weight_decay": 0.0},
            ],
            lr=options.learning_rate,
        )
        for step, batch in enumerate(_checked(batches, count, steps)):
            for group in optimizer.param_groups:
                group["lr"] = options.learning_rate * _schedule(step, steps)
            losses = _losses(model, list(layers.values()), batch, options.precision)
            (losses.tokens + options.silence * losses.silence).sum().backward()
            _clip_each(list(layers.values()), options.clip)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if on_step is not None:
                on_step(step, StepLosses(losses.tokens.detach(), losses.silence.detach()))
        return [
            {
                name: LoraModule(
                    layer.lora_A.detach()[g].clone(),
                    layer.lora_B.detach()[g].clone(),
                    layer.scaling,
                )
                for name, layer in layers.items()
            }
            for g in range(count)
        ]


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
) -> StepLosses:
    """Per adapter: weighted mean cross entropy, and the mean silence penalty over modules."""
    count, rows, length = batch.ids.shape
    ids = batch.ids.reshape(count * rows, length)
    penalised = bool(batch.silent.any())
    for layer in layers:
        layer.silent = batch.silent[:, :, :-1].reshape(count, -1).float() if penalised else None
    with torch.autocast(ids.device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
        hidden = model.get_decoder()(input_ids=ids[:, :-1]).last_hidden_state  # type: ignore[operator]
        weights = batch.weights.reshape(count * rows, length)[:, 1:]
        kept = weights > 0  # (G * B, T - 1)
        logits = model.get_output_embeddings()(hidden[kept])  # type: ignore[operator]
    losses = cross_entropy(logits.float(), ids[:, 1:][kept], reduction="none")
    adapter = torch.arange(count, device=ids.device).repeat_interleave(rows)  # (G * B,)
    owner = adapter[:, None].expand_as(kept)[kept]
    totals = losses.new_zeros(count).index_add(0, owner, losses * weights[kept])
    tokens = totals / batch.weights[:, :, 1:].sum((1, 2)).clamp(min=1e-6)
    if not penalised:
        return StepLosses(tokens, torch.zeros_like(tokens))
    silence = torch.stack([layer.penalty for layer in layers if layer.penalty is not None]).mean(0)
    return StepLosses(tokens, silence)


def _clip_each(layers: list[StackedLora], limit: float) -> None:
    """Scales each adapter's gradient, over all its modules, to at most ``limit``."""
    gradients = [p.grad for layer in layers for p in (layer.lora_A, layer.lora_B)]
    present = [g for g in gradients if g is not None]
    norms = torch.stack([g.flatten(1).square().sum(-1) for g in present]).sum(0).sqrt()  # (G,)
    scale = (limit / norms.clamp(min=1e-12)).clamp(max=1.0)
    for gradient in present:
        gradient.mul_(scale.reshape(-1, 1, 1))


def _schedule(step: int, steps: int) -> float:
    warmup = max(1, steps // 10)
    return min((step + 1) / warmup, (steps - step) / max(1, steps - warmup), 1.0)


@contextmanager
def _stacked(
    model: nn.Module, targets: Sequence[str], count: int, options: TrainingOptions
) -> Iterator[dict[str, StackedLora]]:
    """Puts stacked layers in place of the targets and takes them out again."""
    trainable = {p for p in model.parameters() if p.requires_grad}
    layers: dict[str, StackedLora] = {}
    if not targets:
        raise AdapterMismatchError(
            "Expected at least one target", "found none", "name the modules to adapt"
        )
    try:
        model.requires_grad_(False)
        for name in targets:
            layers[name] = StackedLora(_target(model, name, options.precision), count, options)
            model.set_submodule(name, layers[name])
        yield layers
    finally:
        for name, layer in layers.items():
            model.set_submodule(name, layer.base)
        for parameter in trainable:
            parameter.requires_grad_(True)


def _target(model: nn.Module, name: str, precision: Precision) -> nn.Linear:
    """The linear module of that name, if its input is every token of the batch."""
    module = dict(model.named_modules(remove_duplicate=False)).get(name)
    fault = _fault(model, module, precision)
    if fault:
        raise AdapterMismatchError(
            f"Expected the target {name!r} to be an nn.Linear inside {type(model).__name__}",
            f"found {fault}",
            "name full dotted paths, as in model.named_modules(), each once",
        )
    assert isinstance(module, nn.Linear)
    return module


def _fault(model: nn.Module, module: nn.Module | None, precision: Precision) -> str:
    """Why the module cannot be a target; empty if it can."""
    if module is None:
        return "no such module"
    if isinstance(module, StackedLora):
        return "the target named twice"
    if not isinstance(module, nn.Linear):
        return f"a {type(module).__name__}"
    if module is model.get_output_embeddings():  # type: ignore[operator]
        return "the output embeddings"
    if precision == "fp32" and module.weight.dtype != torch.float32:
        return f"weights in {module.weight.dtype}, which precision 'fp32' does not take"
    return ""
