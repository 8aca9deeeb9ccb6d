"""A passage's mixture of latent adapters, or several passages', as rows of a module's stack."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lag_engine.errors import AdapterNotFoundError, PlanError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lag_engine.model.bank import AdapterBank
    from lag_engine.routing import Latent

MixedWeights = dict[str, dict[str, float]]
"""Module to latent adapter to weight."""


def mixed_weights(bank: AdapterBank, selection: Latent) -> MixedWeights:
    """Returns the sum of the selected mixtures, which applies the sum of their updates.

    Raises:
        PlanError: the library has no mixtures, or a name is that of an adapter.
        AdapterNotFoundError: a name is not in the library.
    """
    _check(bank, selection)
    total: MixedWeights = {}
    for name, weight in selection.items:
        for module, mixture in bank.mixture(name).items():
            _add(total.setdefault(module, {}), mixture, weight)
    return total


def _add(total: dict[str, float], mixture: Mapping[str, float], weight: float) -> None:
    for latent, share in mixture.items():
        total[latent] = total.get(latent, 0.0) + weight * share


def _check(bank: AdapterBank, selection: Latent) -> None:
    unknown = [name for name in selection.names if name not in bank.mixtures]
    if not unknown:
        return
    if not bank.mixtures:
        raise PlanError(
            "Expected a library whose passages mix latent adapters",
            "Found no mixture in it",
            "Encode the passages with PolyPRAG first, or pin adapters of their own in mode 'prag'",
        )
    adapters = [n for n in unknown if n in bank.names("task") or n in bank.names("knowledge")]
    if adapters:
        raise PlanError(
            "Expected passages' mixtures of latent adapters",
            f"Found {', '.join(map(repr, adapters[:5]))}, which are adapters of their own",
            "Pin these in mode 'prag', or encode the passages with PolyPRAG",
        )
    raise AdapterNotFoundError.of(unknown, bank.mixtures)
