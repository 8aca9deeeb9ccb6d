"""The latent adapters of a collection as tensors: trained, or read from a library."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from lag_engine.adapters import LibrarySnapshot, LoraModule, PeftAdapter
from lag_engine.documents.hooked_updates import UpdateOf


class LatentModule(NamedTuple):
    """One module's latent adapters, their rank rows one under another; Q of them in all.

    Attributes:
        A: (Q, D_in).
        B: (Q, D_out); scaling included, but for those that are trained.
        owners: The latent adapter of each row (Q,).
        scaling: Of the update.
    """

    A: Tensor
    B: Tensor
    owners: Tensor
    scaling: float

    def update(self, weights: Tensor) -> UpdateOf:
        """The mixed update: sum over latent adapters of weight times theirs.

        Args:
            weights: Of each passage (G, M).
        """
        spread = self.scaling * weights[:, None, self.owners]  # (G, 1, Q)

        def update(x: Tensor) -> Tensor:
            grouped = x.reshape(len(spread), -1, x.shape[-1]).to(self.A.dtype)  # (G, n, D_in)
            z = (grouped @ self.A.T) * spread  # (G, n, Q)
            return (z @ self.B).reshape(*x.shape[:-1], -1)

        return update


class LatentFactors:
    """All modules' latent adapters.

    Attributes:
        modules: Full dotted path to factors.
        names: Of the latent adapters; M of them.
    """

    def __init__(self, modules: Mapping[str, LatentModule], names: Sequence[str]) -> None:
        self.modules = dict(modules)
        self.names = tuple(names)

    @classmethod
    def fresh(
        cls,
        model: nn.Module,
        targets: Sequence[str],
        *,
        count: int,
        rank: int,
        scaling: float,
        seed: int,
    ) -> Self:
        """New ones, as PEFT starts LoRAs: lora_A at random, lora_B zero."""
        random = torch.Generator().manual_seed(seed)
        modules = {}
        for name in targets:
            module: Any = model.get_submodule(name)
            d_in, d_out, device = module.in_features, module.out_features, module.weight.device
            A = torch.empty(count * rank, d_in)  # made on the CPU: the same for any device
            A.uniform_(-1 / math.sqrt(d_in), 1 / math.sqrt(d_in), generator=random)
            modules[name] = LatentModule(
                A.to(device).requires_grad_(),
                torch.zeros(count * rank, d_out, device=device, requires_grad=True),
                torch.arange(count, device=device).repeat_interleave(rank),
                scaling,
            )
        return cls(modules, [f"latent-{i:02d}" for i in range(count)])

    @classmethod
    def of_library(cls, snapshot: LibrarySnapshot, model: nn.Module) -> Self:
        """Those of a library, frozen."""
        names = snapshot.latents.names
        forms = [snapshot.forms(name) for name in names]
        modules = {}
        for module in snapshot.latents.modules:
            target: Any = model.get_submodule(module)
            device = target.weight.device
            held = [(index, form[module]) for index, form in enumerate(forms) if module in form]
            owners = [index for index, form in held for _ in range(len(form.A))]
            modules[module] = LatentModule(
                torch.cat([form.A for _, form in held]).to(device, torch.float32),
                torch.cat([form.B for _, form in held]).to(device, torch.float32),
                torch.tensor(owners, device=device),
                1.0,
            )
        return cls(modules, names)

    def parameters(self) -> list[Tensor]:
        """What is trained, if these are new."""
        return [factor for module in self.modules.values() for factor in (module.A, module.B)]

    def updates(self, weights: Tensor) -> dict[str, UpdateOf]:
        """Each module's mixed update.

        Args:
            weights: Of each passage, module (in the order of `modules`) and latent adapter;
                (G, modules, M).
        """
        return {
            name: module.update(weights[:, place])
            for place, (name, module) in enumerate(self.modules.items())
        }

    def adapters(self) -> dict[str, PeftAdapter]:
        """Each latent adapter by itself."""
        return {
            name: PeftAdapter(
                {
                    path: LoraModule(
                        module.A.detach()[module.owners == index].cpu(),
                        module.B.detach()[module.owners == index].T.cpu(),
                        module.scaling,
                    )
                    for path, module in self.modules.items()
                }
            )
            for index, name in enumerate(self.names)
        }
