"""What an owner should know of a library: who is dead, duplicate, tied, or wins every token."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from lag_engine.adapters.duplicates import Duplicate, find_duplicates
from lag_engine.adapters.library import AdapterLibrary
from lag_engine.adapters.snapshot import LibrarySnapshot
from lag_engine.adapters.spectral import SpectralForm
from lag_engine.adapters.stack import AdapterKind, ModuleStack
from lag_engine.errors import LibraryError

AuditScore = Literal["arrow", "projection", "norm", "relative"]

# Nothing chooses among latent adapters: passages say how they mix them.
_ROUTED: tuple[AdapterKind, ...] = ("task", "knowledge")
_ROWS_AT_ONCE = 64


class WinShare(NamedTuple):
    """How often an adapter would be chosen among its kind.

    Attributes:
        name: of the adapter.
        kind: "task" or "knowledge".
        share: of inputs it wins, averaged over the modules of its kind; in [0, 1].
    """

    name: str
    kind: AdapterKind
    share: float


@dataclass(frozen=True)
class AuditReport:
    """The findings of `audit`; `str` of it is meant to be read.

    Attributes:
        n_adapters: that were looked at.
        score: under which adapters were compared.
        inputs: what they were compared on, in words.
        dead: adapters whose update is zero everywhere.
        duplicates: pairs at least as similar as was asked for, most similar first.
        tied: adapters of a kind that share lora_A, which "projection" cannot tell apart; looked for
            under that score only.
        wins: of every adapter that can be routed to, most first.
        dominance: the share of wins from which an adapter counts as dominant.
    """

    n_adapters: int
    score: AuditScore
    inputs: str
    dead: tuple[str, ...]
    duplicates: tuple[Duplicate, ...]
    tied: tuple[tuple[str, ...], ...]
    wins: tuple[WinShare, ...]
    dominance: float

    @property
    def dominant(self) -> tuple[WinShare, ...]:
        """Adapters that would win nearly every token, though they are not alone in their kind."""
        alone = {kind for kind in _ROUTED if self._count(kind) < 2}
        return tuple(
            win for win in self.wins if win.share >= self.dominance and win.kind not in alone
        )

    @property
    def is_clean(self) -> bool:
        """Whether nothing was found."""
        return not (self.dead or self.duplicates or self.tied or self.dominant)

    def _count(self, kind: str) -> int:
        return sum(win.kind == kind for win in self.wins)

    def __str__(self) -> str:
        lines = [f"{self.n_adapters} adapters, score {self.score}, on {self.inputs}"]
        lines += [f"dead: {name} changes nothing; remove it" for name in self.dead]
        for first, second, similarity, is_exact in self.duplicates:
            what = "equal" if is_exact else f"{similarity:.4f} similar"
            lines.append(f"duplicate: {first} and {second} are {what}; keep one")
        for names in self.tied:
            some = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
            lines.append(
                f"tied: {len(names)} adapters ({some}) share lora_A, and 'projection' cannot tell "
                "them apart; use the score 'norm' or 'relative'"
            )
        for name, kind, share in self.dominant:
            lines.append(
                f"dominant: {name} wins {share:.0%} of inputs among the {kind} adapters; "
                "try the score 'relative', or scale it down"
            )
        return "\n".join(lines if len(lines) > 1 else [*lines, "nothing found"])


def audit(
    library: AdapterLibrary | LibrarySnapshot,
    *,
    score: AuditScore = "projection",
    probe: Mapping[str, Tensor] | None = None,
    near: float = 0.99,
    dominance: float = 0.8,
    n_directions: int = 256,
    seed: int = 0,
) -> AuditReport:
    """Looks for dead, duplicate, tied and dominant adapters.

    Duplicates are compared by the cosine of their updates over all modules. Candidates come from a
    random sketch of every update, so that N adapters cost O(N) reads; each candidate is then
    compared exactly, by R×R products of the factors.

    Wins are counted on real inputs where `probe` gives them, else on random Gaussian directions,
    which tell an adapter that is simply large from one that fits; every module of a kind counts
    alike, and ties go to the adapter that joined first.

    Args:
        library: what to look at.
        score: "arrow" |a·x|, "projection" ‖A*x‖, "norm" ‖S A*x‖ or "relative" ‖S A*x‖ / ‖S‖.
        probe: module to inputs (T, D_in); modules that are not in it are not counted.
        near: cosine from which two adapters count as duplicates.
        dominance: share of wins from which an adapter counts as dominant.
        n_directions: random inputs per module, where there is no probe.
        seed: of the random inputs and sketches.

    Raises:
        LibraryError: the score is unknown, or the probe does not fit the modules.
    """
    if score not in get_args(AuditScore):
        names = ", ".join(get_args(AuditScore))
        raise LibraryError(f"Expected a score of {names}", f"found {score!r}", "pass one of them")
    snapshot = library.snapshot() if isinstance(library, AdapterLibrary) else library
    norms = {row.name: _squared_norm(snapshot.forms(row.name)) for row in snapshot.rows()}
    inputs = f"{n_directions} random directions a module"
    if probe is not None:
        inputs = f"given activations of {len(probe)} modules"
    shares = _win_shares(snapshot, _Inputs(snapshot, probe, n_directions, seed), score)
    return AuditReport(
        n_adapters=len(snapshot.rows()),
        score=score,
        inputs=inputs,
        dead=tuple(name for name, norm in norms.items() if norm == 0),
        duplicates=find_duplicates(snapshot, norms, near=near, seed=seed),
        tied=_tied(snapshot) if score == "projection" else (),
        wins=shares,
        dominance=dominance,
    )


class _Inputs:
    """Module to inputs, (T, D_in) float32; given, or random."""

    def __init__(
        self,
        snapshot: LibrarySnapshot,
        probe: Mapping[str, Tensor] | None,
        n_directions: int,
        seed: int,
    ) -> None:
        self._shapes = snapshot.modules()
        self._probe = probe
        self._n = n_directions
        self._random = torch.Generator().manual_seed(seed)
        for module, inputs in (probe or {}).items():
            self._check(module, tuple(inputs.shape))

    def modules(self) -> Sequence[str]:
        return list(self._shapes if self._probe is None else self._probe)

    def of(self, module: str) -> Tensor:
        if self._probe is not None:
            return self._probe[module].float()
        return torch.randn(self._n, self._shapes[module].d_in, generator=self._random)

    def _check(self, module: str, found: tuple[int, ...]) -> None:
        if module not in self._shapes or found[1:] != (self._shapes[module].d_in,):
            wanted = f"(T, {self._shapes[module].d_in})" if module in self._shapes else "no inputs"
            raise LibraryError(
                f"Expected {wanted} for {module}",
                f"found a probe of shape {found}",
                "pass inputs (T, D_in) of modules that the library updates",
            )


def _tied(snapshot: LibrarySnapshot) -> tuple[tuple[str, ...], ...]:
    """The members of each family that are routed among each other."""
    members: dict[object, list[str]] = {}
    for row in snapshot.rows():
        family = snapshot.segment(row.segment).family
        if family is not None and row.kind in _ROUTED:
            members.setdefault((row.kind, family.key), []).append(row.name)
    return tuple(tuple(names) for names in members.values() if len(names) > 1)


def _squared_norm(forms: Mapping[str, SpectralForm]) -> float:
    return sum(float(form.singular.double().square().sum()) for form in forms.values())


def _win_shares(
    snapshot: LibrarySnapshot, inputs: _Inputs, score: AuditScore
) -> tuple[WinShare, ...]:
    shares: list[WinShare] = []
    for kind in _ROUTED:
        totals = {row.name: 0.0 for row in snapshot.rows() if row.kind == kind}
        n_modules = 0
        for module in inputs.modules():
            stack = snapshot.stack(module, kind)
            if len(stack):
                n_modules += 1
                for name, share in _module_shares(stack, inputs.of(module), score):
                    totals[name] += share
        shares += [WinShare(name, kind, sum_ / max(n_modules, 1)) for name, sum_ in totals.items()]
    return tuple(sorted(shares, key=lambda win: -win.share))


def _module_shares(stack: ModuleStack, x: Tensor, score: AuditScore) -> Iterator[tuple[str, float]]:
    parts = []
    for rows in torch.arange(len(stack)).split(_ROWS_AT_ONCE):
        z = torch.einsum("td,nrd->tnr", x, stack.A(rows).float())  # (T, n, R)
        parts.append(_scores(z, stack.singular[rows], score))
    winners = torch.cat(parts, dim=1).argmax(dim=1)  # (T,)
    counts = torch.bincount(winners, minlength=len(stack)).tolist()
    return ((name, n / len(x)) for name, n in zip(stack.names, counts, strict=True))


def _scores(z: Tensor, singular: Tensor, score: AuditScore) -> Tensor:
    """LAG eq. 6-7 and its two variants; (T, n)."""
    if score == "arrow":
        return z[..., 0].abs()
    if score == "projection":
        return _norms(z)
    sizes = _norms(z * singular)  # (T, n)
    whole = _norms(singular).clamp_min(1e-30)  # (n,)
    return sizes if score == "norm" else sizes / whole


def _norms(rows: Tensor) -> Tensor:
    found: Tensor = torch.linalg.vector_norm(rows, dim=-1)
    return found
