"""Families: adapters over one row space, such as those of which only lora_B was trained.

With a shared lora_A every member's A* is `O Q` for one basis Q of its rows, (R, D_in), and an
orthogonal O of the member's own, (R, R): storing Q once and O for each member is exact and half
the size, and `A* x = O (Q x)` costs a token one product with Q and R² for each member (the idea of
SEQR, arXiv 2509.18093).
"""

from __future__ import annotations

from collections.abc import Container, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from lag_engine.adapters.peft_adapter import LoraModule
from lag_engine.adapters.spectral import SpectralForm

_DIGITS = 9
# How far a direction of a member, of length 1, may lie outside the row space: what rounding it for
# storage does, at least what computing it does.
_ROUNDINGS = 2
_LEAST = 1e-11

Sums = Mapping[str, float]
"""Module to the sum of lora_A, to nine digits; equal for equal lora_A."""


@dataclass(frozen=True, eq=False)
class Family:
    """What the members of a family share.

    Attributes:
        sums: of the lora_A that they were trained with.
        bases: module to the basis of its rows, Q; (R, D_in); orthonormal up to rounding.
    """

    sums: Sums
    bases: Mapping[str, Tensor]

    @property
    def key(self) -> Hashable:
        """Equal for equal families."""
        return _key(self.sums)

    def fit(self, sums: Sums, forms: Mapping[str, SpectralForm]) -> dict[str, SpectralForm] | None:
        """Returns a member's forms with O, (R, R), in the place of A*; None for no member."""
        if sums != self.sums:
            return None
        fitted = {}
        for module, form in forms.items():
            basis, A = self.bases[module], form.A.double()
            if A.shape != basis.shape:
                return None
            turn = A @ self._inverses[module]  # (R, R)
            outside = torch.linalg.matrix_norm(A - turn @ basis.double())
            allowed = max(_LEAST, _ROUNDINGS * torch.finfo(form.A.dtype).eps)
            if outside > allowed * len(A) ** 0.5:
                return None
            fitted[module] = form._replace(A=turn.to(form.A.dtype))
        return fitted

    @cached_property
    def _inverses(self) -> dict[str, Tensor]:
        """The pseudo-inverse of each basis; (D_in, R) float64."""
        return {module: torch.linalg.pinv(basis.double()) for module, basis in self.bases.items()}


class Group(NamedTuple):
    """Adapters of one batch that are written together.

    Attributes:
        family: theirs; None for adapters that have none.
        members: place in the batch to forms, as they are stored.
    """

    family: Family | None
    members: dict[int, Mapping[str, SpectralForm]]


def sums_of(modules: Mapping[str, LoraModule]) -> Sums:
    """Returns what tells one lora_A from another, without keeping it."""
    sums = torch.stack([part.lora_A.sum(dtype=torch.float64).cpu() for part in modules.values()])
    rounded = [float(f"{value:.{_DIGITS}g}") for value in sums.tolist()]
    return dict(zip(modules, rounded, strict=True))


def grouped(
    adapters: Sequence[tuple[Sums, Mapping[str, SpectralForm]]],
    known: Iterable[Family],
    *,
    founders: Container[int] = (),
) -> list[Group]:
    """Groups the adapters of a batch by family: a known one, or one that two or more of them are.

    Args:
        adapters: sums of lora_A and spectral forms of each.
        known: the families of the library.
        founders: places of those that begin a family even alone.

    Returns:
        Groups, that without family first; some may be empty.
    """
    by_sums = {family.key: family for family in known}
    alike: dict[Hashable, list[int]] = {}
    for place, (sums, _) in enumerate(adapters):
        alike.setdefault(_key(sums), []).append(place)
    alone: dict[int, Mapping[str, SpectralForm]] = {}
    groups = []
    for key, places in alike.items():
        members: dict[int, Mapping[str, SpectralForm]] = {}
        is_begun = key in by_sums or any(place in founders for place in places)
        if is_begun or len(places) > 1:
            family = by_sums.get(key) or _family_of(*adapters[places[0]])
            fitted = {place: family.fit(*adapters[place]) for place in places}
            members = {place: forms for place, forms in fitted.items() if forms is not None}
            if not is_begun and len(members) < 2:
                members = {}
            groups.append(Group(family, members))
        alone |= {place: adapters[place][1] for place in places if place not in members}
    return [Group(None, dict(sorted(alone.items()))), *groups]


def _family_of(sums: Sums, forms: Mapping[str, SpectralForm]) -> Family:
    """The family of an adapter whose own directions serve as basis."""
    return Family(sums, {module: form.A for module, form in forms.items()})


def _key(sums: Sums) -> Hashable:
    return tuple(sorted(sums.items()))
