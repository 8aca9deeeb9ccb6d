"""Modules for training one task adapter inside a library: routed against those that are there."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from lag_engine.adapters import LoraModule, ModuleStack
from lag_engine.routing import GROUPED, LAG

MARGIN = 0.06
"""By how much of the input's length the right side's score should be ahead."""


class Labels(NamedTuple):
    """Tokens whose routing is taught: their places (P,), and whether they should choose it."""

    places: Tensor
    is_wanted: bool


class Rival(nn.Module):
    """An attention projection with the trained adapter, alone or routed among the others.

    Args:
        base: The projection.
        others: The other task adapters' stack on it.
        start: Where the trained one starts.
    """

    def __init__(self, base: nn.Linear, others: ModuleStack, start: LoraModule) -> None:
        super().__init__()
        rows = torch.arange(len(others.names))
        self.base = base
        self.rank = others.singular.shape[-1]
        self.others_A = others.A(rows).float().flatten(0, 1)  # (N * R, D_in)
        self.others_B = others.B(rows).float().flatten(0, 1)  # (N * R, D_out)
        self.lora_A = nn.Parameter(start.lora_A.clone())
        self.lora_B = nn.Parameter(start.lora_B.clone())
        self.scaling = start.scaling
        self.is_routed = False
        self.labels: Labels | None = None
        self.hinge = torch.zeros(())
        self.penalty = torch.zeros(())

    def forward(self, x: Tensor) -> Tensor:
        """Base output plus the update; x is (B, T, D_in)."""
        out: Tensor = self.base(x)
        own = self.scaling * ((x @ self.lora_A.T) @ self.lora_B.T)
        if not self.is_routed and self.labels is None:
            return out + own
        flat = x.reshape(-1, x.shape[-1]).float()
        with torch.autocast(x.device.type, enabled=False):
            basis = torch.linalg.qr(self.lora_A.T).Q  # (D_in, R)
            if self.labels is not None:
                self._teach(self.labels, flat.detach(), basis, out.detach(), own)
            if self.is_routed:
                own = self._routed(flat, basis.detach(), own)
        return out + own

    def _scores(self, x: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
        """Its `projection` score (T,), and the others' (T, N)."""
        others = (x @ self.others_A.T).view(len(x), -1, self.rank).norm(dim=-1)
        return (x @ basis).norm(dim=-1), others

    def _teach(self, labels: Labels, x: Tensor, basis: Tensor, out: Tensor, own: Tensor) -> None:
        x = x[labels.places]
        mine, others = self._scores(x, basis)
        lead = (mine - others.amax(-1)) / x.norm(dim=-1).clamp(min=1e-6)  # (P,)
        self.hinge = (MARGIN - lead if labels.is_wanted else MARGIN + lead).relu().mean()
        if not labels.is_wanted:
            size = own.flatten(0, 1)[labels.places].float().square().sum()
            self.penalty = size / out.flatten(0, 1)[labels.places].float().square().sum()

    def _routed(self, x: Tensor, basis: Tensor, own: Tensor) -> Tensor:
        """Its own update where it wins, else the best other's; x is (B * T, D_in)."""
        mine, others = self._scores(x.detach(), basis)
        best, winner = others.max(-1)
        is_own = mine > best  # (B * T,)
        chosen = one_hot(winner, others.shape[-1]).bool() & ~is_own[:, None]
        z = (x @ self.others_A.T) * chosen.repeat_interleave(self.rank, 1)
        other = (z @ self.others_B).view(own.shape).to(own.dtype)
        return own * is_own.view(*own.shape[:-1], 1) + other


class RoutedDocuments(nn.Module):
    """An MLP projection with the document adapters routed as in mode "lag"; nothing is trained."""

    def __init__(self, base: nn.Linear, stack: ModuleStack) -> None:
        super().__init__()
        self.base = base
        self.stack = stack
        self.is_on = False

    def forward(self, x: Tensor) -> Tensor:
        """Base output plus the updates; x is (B, T, D_in)."""
        out: Tensor = self.base(x)
        if not self.is_on:
            return out
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            update = [self._update(part) for part in x.float().flatten(0, 1).split(512)]
        return out + torch.cat(update).view(out.shape).to(out.dtype)

    def _update(self, x: Tensor) -> Tensor:
        choice = LAG().route(x, self.stack)
        return GROUPED.apply(choice.z, choice.weights, choice.rows, self.stack)
