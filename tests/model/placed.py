"""Stacks of random adapters that lie in memory as those of a library do."""

from __future__ import annotations

import pytest
import torch

from lag_engine.adapters.stack import Places
from lag_engine.model.bank import ResidentStack
from lag_engine.model.kernels import build

CPU = torch.device("cpu")

needs_compiler = pytest.mark.skipif(
    not build.build().status.is_ready, reason=build.build().status.reason
)


class Placed:
    """Adapters whose factors lie in memory, as those of a library do; `x` is of their width."""

    def __init__(self, A, B, singular, dtype=torch.float32):
        self.names = tuple(map(str, range(len(A))))
        self._A, self._B = A.to(dtype).contiguous(), B.to(dtype).contiguous()
        self.arrow, self.singular = self._A[:, 0].contiguous(), singular.float()
        self.places = Places(
            *map(_addresses, (self._A, self._B, self.arrow)), _ranks(self._A), dtype
        )

    def A(self, rows):
        return self._A[rows]

    def B(self, rows):
        return self._B[rows]


def _addresses(factors):
    step = factors.stride(0) * factors.itemsize
    return factors.data_ptr() + step * torch.arange(len(factors))


def _ranks(factors):
    return torch.full((len(factors),), factors.shape[1])


def draw(n, d_in, d_out, rank, *, dtype=torch.float32, seed=0):
    """A stack of random adapters with orthonormal A*."""
    generator = torch.Generator().manual_seed(seed)
    A = torch.linalg.qr(torch.randn(n, d_in, rank, generator=generator))[0].mT
    B = torch.randn(n, rank, d_out, generator=generator) / d_out**0.5
    singular = torch.rand(n, rank, generator=generator).sort(dim=-1, descending=True).values
    return ResidentStack(Placed(A, B, singular, dtype), CPU)


def inputs(n_tokens, d_in, *, dtype=torch.float32, seed=1):
    return torch.randn(n_tokens, d_in, generator=torch.Generator().manual_seed(seed)).to(dtype)
