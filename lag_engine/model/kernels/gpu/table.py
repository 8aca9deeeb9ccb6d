"""Routers as numbers that the kernels read: a plan changes on the device, no launch does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from triton.language import constexpr

from lag_engine.routing.routers import LAG, Arrow

if TYPE_CHECKING:
    from torch import Tensor

FIELDS = constexpr(7)
"""A router's numbers, float32; whole ones are exact in it."""

KIND, SCORE, K, K_MIN, KEEP, FLOOR, TEMPERATURE = map(constexpr, range(7))

BY_ARROW, BY_PROJECTION, BY_NORM, BY_RELATIVE = map(constexpr, range(4))

_SCORES = {
    "arrow": BY_ARROW,
    "projection": BY_PROJECTION,
    "norm": BY_NORM,
    "relative": BY_RELATIVE,
}

LAG_KIND, ARROW_KIND = constexpr(0), constexpr(1)

NO_FLOOR = 0.0
"""No score is below it."""


def candidates_of(router: LAG | Arrow, n: int) -> int:
    """Returns the most adapters, of n, that a token of the router projects."""
    if isinstance(router, Arrow):
        return min(router.top_k, n)
    return min(router.k_max if router.retrieve_k == "adaptive" else router.retrieve_k, n)


def width_of(router: LAG | Arrow, n: int) -> int:
    """Returns how many adapters, of n, a token of the router can have."""
    return min(router.top_k, n) if isinstance(router, Arrow) else 1


def row_of(router: LAG | Arrow, n: int) -> Tensor:
    """Returns the router's numbers over n adapters; (FIELDS,) float32."""
    row = torch.zeros(FIELDS.value)
    row[K.value], row[FLOOR.value], row[TEMPERATURE.value] = candidates_of(router, n), NO_FLOOR, 1.0
    if isinstance(router, Arrow):
        row[KIND.value], row[TEMPERATURE.value] = ARROW_KIND.value, router.temperature
        return row
    row[KIND.value], row[SCORE.value] = LAG_KIND.value, _SCORES[router.score].value
    if router.retrieve_k == "adaptive":
        row[K_MIN.value], row[KEEP.value] = router.k_min, router.keep
    if router.floor is not None:
        row[FLOOR.value] = max(router.floor, NO_FLOOR)
    return row
