"""The two products of an update: z = A* x, and the sum over k of w B*^T z.

Each exists in a readable reference form and in a grouped form that is fast; they agree to rounding.
A form may also offer the whole update of a routed module as one call. Scratch memory of the grouped
form is bounded, whatever T and K are. Products are summed in float32, or in float64 where the model
is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from lag_engine.routing.scores import accumulation_dtype

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lag_engine.routing.choice import Fuse

SCRATCH_ELEMENTS = 1 << 22
"""Elements of the largest temporary: 16 MiB in float32."""

GATHER_ELEMENTS = 1 << 18
"""Below this many gathered elements (1 MiB in float32) one gather is faster than grouping."""


class Stack(Protocol):
    """One module's adapters of one kind, in library order, on the device of the inputs."""

    @property
    def arrow(self) -> Tensor:
        """Arrow vectors; (N, D_in)."""
        ...

    @property
    def singular(self) -> Tensor:
        """Singular values, descending, zero-padded; (N, R)."""
        ...

    def A(self, rows: Tensor, /) -> Tensor:
        """Returns A* of these rows; (*rows.shape, R, D_in)."""
        ...

    def B(self, rows: Tensor, /) -> Tensor:
        """Returns B* of these rows; (*rows.shape, R, D_out)."""
        ...


class Project(Protocol):
    """Computes z = A* x for chosen rows."""

    def __call__(self, x: Tensor, rows: Tensor, stack: Stack) -> Tensor:
        """Returns z; (T, K, R).

        Args:
            x: inputs; (T, D_in).
            rows: (T, K) rows of each token, -1 for none (its z means nothing), or (K,) rows
                shared by all tokens.
            stack: the module's adapters.
        """
        ...


class Apply(Protocol):
    """Sums the chosen updates."""

    def __call__(self, z: Tensor, weights: Tensor, rows: Tensor, stack: Stack) -> Tensor:
        """Returns the update of every token; (T, D_out).

        Args:
            z: projections of the chosen rows; (T, K, R).
            weights: routing weights; (T, K), or (K,) with shared rows; 0 where a row is -1.
            rows: (T, K) rows of each token, -1 for none, or (K,) rows shared by all tokens.
            stack: the module's adapters.
        """
        ...


class Form(NamedTuple):
    """One way to compute both products, and, where `fuse` is given, routing and both at once."""

    name: str
    project: Project
    apply: Apply
    fuse: Fuse | None = None


def reference_project(x: Tensor, rows: Tensor, stack: Stack) -> Tensor:
    """Returns z by one einsum over gathered blocks; see `Project`."""
    dtype = accumulation_dtype(x)
    rows = rows.expand(x.shape[0], -1)  # (T, K)
    A = stack.A(rows.clamp(min=0)).to(x.device, dtype)  # (T, K, R, D_in)
    return torch.einsum("td,tkrd->tkr", x.to(dtype), A)


def reference_apply(z: Tensor, weights: Tensor, rows: Tensor, stack: Stack) -> Tensor:
    """Returns the updates by one einsum over gathered blocks; see `Apply`."""
    rows = rows.expand(z.shape[0], -1)  # (T, K)
    weights = weights.to(z).expand_as(rows) * (rows >= 0)
    B = stack.B(rows.clamp(min=0)).to(z)  # (T, K, R, D_out)
    return torch.einsum("tk,tkr,tkro->to", weights, z, B)


def grouped_project(x: Tensor, rows: Tensor, stack: Stack) -> Tensor:
    """Returns z; tokens that chose the same adapter share its block; see `Project`."""
    x = x.to(accumulation_dtype(x))
    if rows.dim() == 1:
        return _project_shared(x, rows, stack)
    rank, d_in = stack.singular.shape[-1], x.shape[-1]
    if rows.numel() * rank * d_in <= GATHER_ELEMENTS:
        return _project_gathered(x, rows, stack)
    spare = rows.numel()  # the line that takes what padding computes
    z = x.new_zeros((spare + 1, rank))  # (T * K + 1, R)
    for group_rows, places, real in _groups(rows.flatten(), block=rank * d_in, item=d_in):
        A = stack.A(group_rows).to(x)  # (n, R, D_in)
        tokens = (places // rows.shape[1]).flatten()  # (n * m,)
        inputs = x.index_select(0, tokens).view(*places.shape, d_in)  # (n, m, D_in)
        lines = torch.where(real, places, spare).flatten()
        z.index_copy_(0, lines, torch.bmm(inputs, A.mT).flatten(0, 1))
    return z[:spare].view(*rows.shape, rank)


def grouped_apply(z: Tensor, weights: Tensor, rows: Tensor, stack: Stack) -> Tensor:
    """Returns the updates; each distinct adapter's block is read once; see `Apply`."""
    coefficients = z * (weights.to(z) * (rows >= 0)).unsqueeze(-1)  # (T, K, R)
    if rows.dim() == 1:
        return coefficients.flatten(1) @ stack.B(rows).to(z).flatten(0, 1)
    if rows.shape[0] == 1:
        B = stack.B(rows[0].clamp(min=0)).to(z)  # (K, R, D_out)
        return coefficients.flatten(1) @ B.flatten(0, 1)
    distinct, index = rows.clamp(min=0).unique(return_inverse=True)  # index (T, K)
    B = stack.B(distinct).to(z)  # (n, R, D_out)
    rank = B.shape[1]
    lines = index.unsqueeze(-1) * rank + torch.arange(rank, device=z.device)  # (T, K, R)
    return functional.embedding_bag(
        lines.flatten(1),
        B.flatten(0, 1),
        mode="sum",
        per_sample_weights=coefficients.flatten(1),
    )


REFERENCE = Form("reference", reference_project, reference_apply)
GROUPED = Form("grouped", grouped_project, grouped_apply)


def row_chunks(rows: Tensor, n_elements: int) -> Iterator[Tensor]:
    """Yields slices of rows so that `n_elements` for each row stay within the scratch bound."""
    yield from rows.split(max(1, SCRATCH_ELEMENTS // max(1, n_elements)))


def _project_shared(x: Tensor, rows: Tensor, stack: Stack) -> Tensor:
    rank, d_in = stack.singular.shape[-1], x.shape[-1]
    parts = [
        (x @ stack.A(chunk).to(x).flatten(0, 1).T).unflatten(-1, (len(chunk), rank))
        for chunk in row_chunks(rows, rank * d_in)
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)  # (T, K, R)


def _project_gathered(x: Tensor, rows: Tensor, stack: Stack) -> Tensor:
    A = stack.A(rows.clamp(min=0)).to(x).flatten(1, 2)  # (T, K * R, D_in)
    return torch.bmm(A, x.unsqueeze(-1)).view(*rows.shape, stack.singular.shape[-1])


def _groups(rows: Tensor, *, block: int, item: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yields batches of adapters with the places that chose them.

    Adapters whose number of places lies between the same powers of two are batched and padded to
    their largest: less than half of a product is padding, and no Python loop runs over adapters.

    Args:
        rows: chosen row of each place; (P,); places of -1 are left out.
        block: elements of one adapter's block.
        item: elements of one place's input.

    Yields:
        Rows (n,); places (n, m), padded with a place of the same adapter; which are real (n, m).
    """
    places = rows.argsort(stable=True)  # (P,), grouped by adapter
    places = places[int((rows < 0).sum()) :]
    distinct, counts = rows[places].unique_consecutive(return_counts=True)
    ends = counts.cumsum(0)
    octave = torch.log2(counts.double()).floor().long()
    for level in octave.unique():
        members = (octave == level).nonzero()[:, 0]
        width = int(counts[members].max())
        for chunk in row_chunks(members, block + width * item):
            step = torch.arange(width, device=rows.device)
            real = step < counts[chunk].unsqueeze(-1)  # (n, m)
            start = (ends - counts)[chunk].unsqueeze(-1)
            yield distinct[chunk], places[start + torch.where(real, step, 0)], real
