"""Linear layers with G low-rank updates each, put into a model for training and taken out again."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lag_engine.adapters import LoraModule
from lag_engine.documents.training_options import Precision, TrainingOptions
from lag_engine.errors import AdapterMismatchError
from lag_engine.model.linear import RoutedLinear


class StackedLora(nn.Module):
    """A linear layer plus G low-rank updates, row group ``g`` of the input using update ``g``.

    Args:
        base: The layer; frozen. An engine's `RoutedLinear` too, while no plan is active on it.
        count: G.
        options: Rank, scaling and start.
        seeds: Of each adapter's lora_A; None: as the options say.
    """

    def __init__(
        self,
        base: nn.Module,
        count: int,
        options: TrainingOptions,
        seeds: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.base = base
        self.scaling = options.scaling
        weight, d_in, d_out = _linear(base)
        device = weight.device
        seeds = seeds or [options.seed + g for g in range(count)]
        if options.shared_lora_A:
            start = _start(d_in, options, options.seed).to(device).expand(count, -1, -1)
        else:
            start = torch.stack([_start(d_in, options, seed) for seed in seeds]).to(device)
        self.lora_A = nn.Parameter(start, requires_grad=not options.shared_lora_A)  # (G, R, D_in)
        self.lora_B = nn.Parameter(
            torch.zeros(count, d_out, options.rank, device=device)
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

    def adapter(self, g: int) -> LoraModule:
        """A copy of one adapter's factors, as they are now."""
        return LoraModule(
            self.lora_A.detach()[g].clone(), self.lora_B.detach()[g].clone(), self.scaling
        )


def _linear(base: nn.Module) -> tuple[Tensor, int, int]:
    """The weight, D_in and D_out of a linear module, which may lie inside a routed one."""
    inner = base.base if isinstance(base, RoutedLinear) else base
    assert isinstance(inner, nn.Linear)
    return inner.weight, inner.in_features, inner.out_features


def _start(d_in: int, options: TrainingOptions, seed: int) -> Tensor:
    """A fresh lora_A; (R, D_in); made on the CPU, so that it is the same for any device."""
    bound = options.init_scale / math.sqrt(d_in)
    generator = torch.Generator().manual_seed(seed)
    return torch.empty(options.rank, d_in).uniform_(-bound, bound, generator=generator)


@contextmanager
def stacked(
    model: nn.Module,
    targets: Sequence[str],
    count: int,
    options: TrainingOptions,
    seeds: Sequence[int] | None = None,
) -> Iterator[dict[str, StackedLora]]:
    """Puts stacked layers in place of the targets and takes them out again.

    Raises:
        AdapterMismatchError: there is no target, or one cannot be trained.
    """
    trainable = {p for p in model.parameters() if p.requires_grad}
    layers: dict[str, StackedLora] = {}
    if not targets:
        raise AdapterMismatchError(
            "Expected at least one target", "found none", "name the modules to adapt"
        )
    try:
        model.requires_grad_(False)
        for name in targets:
            base = _target(model, name, options.precision)
            layers[name] = StackedLora(base, count, options, seeds)
            model.set_submodule(name, layers[name])
        yield layers
    finally:
        for name, layer in layers.items():
            model.set_submodule(name, layer.base)
        for parameter in trainable:
            parameter.requires_grad_(True)


def _target(model: nn.Module, name: str, precision: Precision) -> nn.Module:
    """The linear module of that name, if its input is every token of the batch."""
    module: nn.Module | None = dict(model.named_modules(remove_duplicate=False)).get(name)
    fault = _fault(model, module, precision)
    if fault:
        raise AdapterMismatchError(
            f"Expected the target {name!r} to be an nn.Linear inside {type(model).__name__}",
            f"found {fault}",
            "name full dotted paths, as in model.named_modules(), each once",
        )
    assert module is not None
    return module


def _fault(model: nn.Module, module: nn.Module | None, precision: Precision) -> str:
    """Why the module cannot be a target; empty if it can."""
    if module is None:
        return "no such module"
    if isinstance(module, StackedLora):
        return "the target named twice"
    if module is model.get_output_embeddings():  # type: ignore[operator]
        return "the output embeddings"
    inner = module.base if isinstance(module, RoutedLinear) else module
    if not isinstance(inner, nn.Linear):
        return f"a {type(inner).__name__}"
    if precision == "fp32" and inner.weight.dtype != torch.float32:
        return f"weights in {inner.weight.dtype}, which precision 'fp32' does not take"
    return ""
