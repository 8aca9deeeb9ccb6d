"""Adapters that say the same: pairs whose updates point the same way."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, get_args

import torch
from torch import Tensor

from lag_engine.adapters.snapshot import LibrarySnapshot
from lag_engine.adapters.stack import AdapterKind

_ROWS_AT_ONCE = 64
_SKETCH = 64
# A pair is compared exactly when its sketches are at least this similar, times `near`.
_SKETCH_MARGIN = 0.8


class Duplicate(NamedTuple):
    """Two adapters with (nearly) the same update.

    Attributes:
        first: the one that joined first.
        second: the other.
        similarity: cosine of the two updates over all modules, in [-1, 1].
        is_exact: whether what is stored is equal bit for bit.
    """

    first: str
    second: str
    similarity: float
    is_exact: bool


def find_duplicates(
    snapshot: LibrarySnapshot, norms: Mapping[str, float], *, near: float, seed: int
) -> tuple[Duplicate, ...]:
    """Returns the pairs whose cosine is at least `near`, most similar first.

    Args:
        snapshot: the adapters.
        norms: adapter to squared Frobenius norm of its update; zero ones are left out.
        near: in (0, 1].
        seed: of the sketches.
    """
    rows = [row for row in snapshot.rows() if norms[row.name] > 0]
    if len(rows) < 2:
        return ()
    names = [row.name for row in rows]
    hashes = {row.name: row.sha256 for row in rows}
    found = []
    for first, second in _candidates(snapshot, names, near * _SKETCH_MARGIN, seed):
        is_exact = hashes[first] == hashes[second]
        similarity = 1.0 if is_exact else _similarity(snapshot, first, second, norms)
        if similarity >= near:
            found.append(Duplicate(first, second, similarity, is_exact))
    return tuple(sorted(found, key=lambda pair: -pair.similarity))


def _candidates(
    snapshot: LibrarySnapshot, names: Sequence[str], threshold: float, seed: int
) -> Iterator[tuple[str, str]]:
    sketches = torch.nn.functional.normalize(_sketches(snapshot, names, seed), dim=1)
    for start in range(0, len(names), _ROWS_AT_ONCE):
        cosines = sketches[start : start + _ROWS_AT_ONCE] @ sketches.T  # (n, N)
        for i, j in (cosines >= threshold).nonzero().tolist():
            if j > start + i:
                yield names[start + i], names[j]


def _sketches(snapshot: LibrarySnapshot, names: Sequence[str], seed: int) -> Tensor:
    """y·ΔW·x for random x and y of every module; (N, modules·sketch).

    Over Gaussian x and y the product of two such numbers has the updates' inner product as its
    mean, so cosines of sketches estimate cosines of updates.
    """
    place = {name: index for index, name in enumerate(names)}
    random = torch.Generator().manual_seed(seed)
    columns = []
    for module, (d_in, d_out) in snapshot.modules().items():
        x = torch.randn(_SKETCH, d_in, generator=random)  # (P, D_in)
        y = torch.randn(_SKETCH, d_out, generator=random)  # (P, D_out)
        column = torch.zeros(len(names), _SKETCH)  # (N, P)
        kinds: tuple[AdapterKind, ...] = get_args(AdapterKind)
        for kind in kinds:
            stack = snapshot.stack(module, kind)
            for rows in torch.arange(len(stack)).split(_ROWS_AT_ONCE):
                right = torch.einsum("pd,nrd->npr", x, stack.A(rows).float())  # (n, P, R)
                left = torch.einsum("pd,nrd->npr", y, stack.B(rows).float())  # (n, P, R)
                values = (left * right).sum(dim=-1)  # (n, P)
                for row, value in zip(rows.tolist(), values, strict=True):
                    if (at := place.get(stack.names[row])) is not None:
                        column[at] = value
        columns.append(column)
    return torch.cat(columns, dim=1)


def _similarity(
    snapshot: LibrarySnapshot, first: str, second: str, norms: Mapping[str, float]
) -> float:
    """The cosine of two updates: ⟨B₁ᵀA₁, B₂ᵀA₂⟩ is the sum over (A₁A₂ᵀ)∘(B₁B₂ᵀ), R×R each."""
    ours, theirs = snapshot.forms(first), snapshot.forms(second)
    product = 0.0
    for module in ours.keys() & theirs.keys():
        (a, b, _), (other_a, other_b, _) = ours[module], theirs[module]
        rights = a.double() @ other_a.double().T  # (R, R)
        lefts = b.double() @ other_b.double().T  # (R, R)
        product += float((rights * lefts).sum())
    return product / math.sqrt(norms[first] * norms[second])
