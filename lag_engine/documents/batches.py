"""One step's rows, for adapters that train together."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


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
