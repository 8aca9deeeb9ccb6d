"""What one slot of a plan holds: which adapters are applied there, and how they are chosen.

Selections are immutable values: equal when they mean the same, hashable, with a stable repr.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from lag_engine.errors import PlanError

if TYPE_CHECKING:
    from lag_engine.routing.choice import Router

Slot = Literal["task", "knowledge"]
SLOTS: tuple[Slot, ...] = get_args(Slot)

Weights = str | Iterable[str] | Mapping[str, float]
"""One name, names of weight 1, or a weight for each name."""


@dataclass(frozen=True)
class Routed:
    """Adapters chosen for each token and module by a router.

    Args:
        router: Arrow, SpectR, LAG or another `Router`; hashable, with a repr that names it
            completely.
        candidates: names that may be chosen, in any order; None for the whole library.

    Raises:
        PlanError: an empty list of candidates.
    """

    router: Router
    candidates: tuple[str, ...] | None = None

    def __init__(self, router: Router, candidates: str | Iterable[str] | None = None) -> None:
        names = None if candidates is None else tuple(sorted(_weights(candidates)))
        if names == ():
            raise PlanError(
                "Expected at least one candidate for the router",
                "Found an empty list",
                "Pass None to route over the whole library, or leave the slot empty",
            )
        object.__setattr__(self, "router", router)
        object.__setattr__(self, "candidates", names)


@dataclass(frozen=True)
class _Named:
    """What is applied by name at every position, each with a weight.

    Args:
        weights: one name, names of weight 1, or a finite weight for each name.

    Raises:
        PlanError: no name, the same name twice, or a weight that is not finite.
    """

    items: tuple[tuple[str, float], ...]
    """(name, weight), sorted by name: the sum does not depend on the order of writing."""

    def __init__(self, weights: Weights) -> None:
        object.__setattr__(self, "items", _sorted_items(weights))

    @property
    def names(self) -> tuple[str, ...]:
        """The names, sorted."""
        return tuple(name for name, _ in self.items)


class Pinned(_Named):
    """The same adapters at every position, their weighted updates summed exactly."""


class Latent(_Named):
    """A sparse mix of the library's shared latent adapters (Poly-PRAG, arXiv 2511.17044).

    Its names are documents' mixtures in the library, the weights those of their routing vectors.
    """


class Generated(_Named):
    """Adapters made from the passage's text during the request, pinned (DyPRAG, arXiv 2503.23895).

    Its names are those they were registered under (`LAGEngine.generated`).
    """


Selection = Routed | Pinned | Latent | Generated


def _weights(names: Weights) -> dict[str, float]:
    """Returns a weight for each name."""
    if isinstance(names, Mapping):
        return {str(name): float(weight) for name, weight in names.items()}
    listed = [names] if isinstance(names, str) else list(names)
    twice = sorted({name for name in listed if listed.count(name) > 1})
    if twice:
        raise PlanError(
            "Expected each adapter once",
            f"Found {', '.join(map(repr, twice))} more than once",
            "Name it once; give a weight to apply it more strongly",
        )
    return dict.fromkeys(listed, 1.0)


def _sorted_items(adapters: Weights) -> tuple[tuple[str, float], ...]:
    items = tuple(sorted(_weights(adapters).items()))
    if not items:
        raise PlanError(
            "Expected at least one adapter to apply",
            "Found none",
            "Name one, or leave the slot empty (mode 'base' applies nothing)",
        )
    for name, weight in items:
        if not math.isfinite(weight):
            raise PlanError(
                "Expected a finite weight for each adapter",
                f"Found {weight!r} for {name!r}",
                "Pass a finite number",
            )
    return items
