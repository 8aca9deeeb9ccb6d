"""What a router decided for some tokens, and what a router is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch

from lag_engine.routing.products import GROUPED
from lag_engine.routing.scores import accumulation_dtype

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from lag_engine.routing.products import Form, Stack

NOT_APPLIED = -1


class Choice(NamedTuple):
    """What one router chose for T tokens of one module.

    The update of token t is the sum over k of ``weights[t, k] * B*[rows[t, k]]^T z[t, k]``.
    """

    rows: Tensor
    """Rows of the stack; (T, K) int64; NOT_APPLIED where the token stays on the base."""
    weights: Tensor
    """Routing weights; (T, K); 0 where nothing is applied."""
    z: Tensor
    """A* x of the chosen rows; (T, K, R)."""
    scores: Tensor
    """The score that decided; (T, K); of the best adapter where a floor refused it, else 0."""


class Update(NamedTuple):
    """What a selection adds to some tokens of one module, and the choice behind it."""

    total: Tensor
    """Sum of the chosen updates; (T, D_out), float32 or better."""
    rows: Tensor
    """As in `Choice`; (T, K)."""
    scores: Tensor
    """As in `Choice`; (T, K); NaN where pinned."""
    weights: Tensor
    """As in `Choice`; (T, K)."""


class Fused(Protocol):
    """Routing over one stack and applying what was chosen, in one call."""

    @property
    def stack(self) -> object:
        """Calls over the same one can be made together."""
        ...

    @property
    def width(self) -> int:
        """How many adapters a token can have."""
        ...

    def update(
        self, x: Tensor, /, *, others: Sequence[Any] = (), owners: Tensor | None = None
    ) -> Update | None:
        """Returns the update of every token, or None for inputs it cannot take.

        Args:
            x: (T, D_in).
            others: calls of the same form over the same stack that some of the tokens go.
            owners: whose each token is: 0 for this call, i for others[i - 1], -1 for nobody; (T,)
                int32; None where all are this call's.
        """
        ...

    def added(
        self,
        out: Tensor,
        x: Tensor,
        /,
        *,
        others: Sequence[Any] = (),
        owners: Tensor | None = None,
    ) -> Tensor | None:
        """Returns `out` plus the update of every token, in its dtype, as a new tensor.

        Args:
            out: (..., D_out), T tokens.
            x: (..., D_in), the same tokens.
            others: as in `update`.
            owners: as in `update`.

        Returns:
            None for inputs it cannot take.
        """
        ...


class Fuse(Protocol):
    """Makes the one call of a router over a stack."""

    def __call__(self, router: Router, stack: Stack, allowed: Tensor | None, /) -> Fused | None:
        """Returns the call, or None where router or stack are unknown to it."""
        ...


class Router(Protocol):
    """Chooses adapters for each token of one module."""

    @property
    def name(self) -> str:
        """The router's name in traces."""
        ...

    def route(
        self, x: Tensor, stack: Stack, *, allowed: Tensor | None = None, form: Form = GROUPED
    ) -> Choice:
        """Returns the choice for every token.

        Args:
            x: inputs of the module; (T, D_in).
            stack: the module's adapters of one kind; N rows.
            allowed: rows that may be chosen; (N,) bool; None allows all.
            form: how the products are computed.
        """
        ...


def settle(
    rows: Tensor, weights: Tensor, z: Tensor, scores: Tensor, *, floor: float | None = None
) -> Choice:
    """Returns the choice with every refused place marked as not applied."""
    refused = torch.isneginf(scores)
    scores = scores.masked_fill(refused, 0.0)
    if floor is not None:
        refused |= scores < floor
    return Choice(
        rows.masked_fill(refused, NOT_APPLIED), weights.masked_fill(refused, 0.0), z, scores
    )


def nothing(x: Tensor, stack: Stack) -> Choice:
    """Returns the choice of an empty stack: every token visibly on the base."""
    n_tokens, dtype = x.shape[0], accumulation_dtype(x)
    zeros = x.new_zeros((n_tokens, 1), dtype=dtype)
    z = x.new_zeros((n_tokens, 1, stack.singular.shape[-1]), dtype=dtype)
    rows = torch.full((n_tokens, 1), NOT_APPLIED, dtype=torch.long, device=x.device)
    return Choice(rows, zeros, z, zeros)
