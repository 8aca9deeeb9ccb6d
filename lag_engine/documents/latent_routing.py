"""How passages mix latent adapters: logits in training, few weights afterwards.

Polytropon's router, as PEFT's `PolyConfig` has it: a logit for each passage, module and latent
adapter; in training a relaxed Bernoulli sample of it, afterwards its sigmoid; normalised over the
latent adapters. For Poly-PRAG's sparsity only the `top_k` largest are kept, here before the weights
are normalised, so that what is kept sums to one, and in training too, so that what is trained is
what will be applied. Where Poly-PRAG itself does otherwise could not be read.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lag_engine.adapters.mixtures import MixtureWeights
from lag_engine.documents.latent_factors import LatentFactors

_SEED_STRIDE = 1_000_003


class RoutingTable(nn.Embedding):
    """The logits of passages; a row each, of which a step moves only its own.

    Args:
        seeds: Of the passages' starts; N of them.
        n_modules: Modules that are mixed.
        n_latents: M.
        spread: Standard deviation of the start.
        device: Of the model.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        n_modules: int,
        n_latents: int,
        *,
        spread: float,
        device: torch.device,
    ) -> None:
        super().__init__(len(seeds), n_modules * n_latents, sparse=True, device=device)
        self._shape = (n_modules, n_latents)
        with torch.no_grad():
            for row, seed in enumerate(seeds):
                random = torch.Generator().manual_seed(seed)
                self.weight[row] = spread * torch.randn(n_modules * n_latents, generator=random)

    def logits(self, rows: Tensor) -> Tensor:
        """The logits of some passages (G, modules, M)."""
        found: Tensor = self(rows)
        return found.reshape(-1, *self._shape)


def noise_of(seeds: Sequence[int], step: int, like: Tensor) -> Tensor:
    """Logistic noise for each passage's own seed and step, whoever trains with it; as `like`."""
    draws = []
    for seed in seeds:
        random = torch.Generator().manual_seed((seed + _SEED_STRIDE * (step + 1)) % 2**63)
        draws.append(torch.rand(like.shape[1:], generator=random).clamp(1e-6, 1 - 1e-6))
    uniform = torch.stack(draws).to(like.device)  # (G, modules, M)
    return torch.logit(uniform)


def mixing_weights(
    logits: Tensor, *, top_k: int, noise: Tensor | None = None, temperature: float = 1.0
) -> Tensor:
    """The weights of latent adapters, at most `top_k` in a module and summing to one there.

    Args:
        logits: (G, modules, M).
        top_k: Latent adapters to keep.
        noise: Logistic, for a relaxed Bernoulli sample (G, modules, M); None for its mean's place.
        temperature: Of the sample.
    """
    gates = (logits if noise is None else (logits + noise) / temperature).sigmoid()
    kept = gates.topk(top_k, dim=-1).indices
    sparse = gates * torch.zeros_like(gates).scatter_(-1, kept, 1.0)
    return sparse / sparse.sum(-1, keepdim=True).clamp(min=1e-12)


@torch.no_grad()
def routed(table: RoutingTable, factors: LatentFactors, *, top_k: int) -> list[MixtureWeights]:
    """Each passage's weights as trained, by module and latent adapter, without zeros."""
    rows = torch.arange(table.num_embeddings, device=table.weight.device)
    weights = mixing_weights(table.logits(rows), top_k=top_k)  # (N, modules, M)
    return [
        {
            module: {name: w for name, w in zip(factors.names, row, strict=True) if w}
            for module, row in zip(factors.modules, passage, strict=True)
        }
        for passage in weights.cpu().tolist()
    ]
