"""The factors of several passages' adapters in one module, and what two of them differ by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from lag_engine.adapters import LoraModule
from lag_engine.documents.hooked_updates import UpdateOf


class ModuleFactors(NamedTuple):
    """One module's LoRA factors, one for each passage.

    Attributes:
        lora_A: (G, R, D_in).
        lora_B: (G, D_out, R).
        scaling: Of the update, which is `scaling * lora_B @ lora_A` wherever it is applied.
    """

    lora_A: Tensor
    lora_B: Tensor
    scaling: float

    def update(self) -> UpdateOf:
        """Each passage's update of its own rows of a batch."""

        def update(x: Tensor) -> Tensor:
            grouped = x.reshape(len(self.lora_A), -1, x.shape[-1]).to(self.lora_A.dtype)
            made = grouped @ self.lora_A.mT @ self.lora_B.mT  # (G, n, D_out)
            return self.scaling * made.reshape(*x.shape[:-1], -1)

        return update

    def squared_distance(self, other: ModuleFactors) -> Tensor:
        """The mean over entries of (update - other's update)², by R×R products; (G,)."""
        n_entries = self.lora_A.shape[-1] * self.lora_B.shape[-2]
        ours, theirs = self._inner(self), other._inner(other)
        return (ours - 2 * self._inner(other) + theirs).clamp(min=0) / n_entries

    def adapter(self, g: int) -> LoraModule:
        """One passage's factors."""
        return LoraModule(
            self.lora_A[g].detach().cpu().contiguous(),
            self.lora_B[g].detach().cpu().contiguous(),
            self.scaling,
        )

    def _inner(self, other: ModuleFactors) -> Tensor:
        """The inner product of the updates: the sum over (A₁A₂ᵀ)∘(B₁ᵀB₂); (G,)."""
        rights = self.lora_A @ other.lora_A.mT  # (G, R, R)
        lefts = self.lora_B.mT @ other.lora_B  # (G, R, R)
        return self.scaling * other.scaling * (rights * lefts).sum((-2, -1))


def stacked_factors(
    adapters: Sequence[Mapping[str, LoraModule]], device: torch.device
) -> dict[str, ModuleFactors]:
    """Stored adapters of the same modules, module by module; zero-padded to the highest rank."""
    stacked = {}
    for module in adapters[0]:
        parts = [adapter[module] for adapter in adapters]
        rank = max(len(part.lora_A) for part in parts)
        spare = [rank - len(part.lora_A) for part in parts]
        a = [functional.pad(p.lora_A, (0, 0, 0, n)) for p, n in zip(parts, spare, strict=True)]
        b = [
            functional.pad(p.scaling * p.lora_B, (0, n)) for p, n in zip(parts, spare, strict=True)
        ]
        stacked[module] = ModuleFactors(
            torch.stack(a).to(device, torch.float32), torch.stack(b).to(device, torch.float32), 1.0
        )
    return stacked


def updates_of(factors: Mapping[str, ModuleFactors]) -> dict[str, UpdateOf]:
    """What each module's output gets."""
    return {module: part.update() for module, part in factors.items()}
