"""Plans resolved to the rows of a library's stacks: what each slot does in each module.

A plan names adapters and routers; a resolved one holds the stacks, rows and gathered factors. It
shows the library as it was when it was resolved, however often it is applied.
"""

from __future__ import annotations

import itertools
import warnings
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from lag_engine.errors import AdapterWarning, PlanError
from lag_engine.model.generated import stack_of
from lag_engine.model.mixed import mixed_weights
from lag_engine.model.resident import ResidentStack
from lag_engine.model.shared import SharedFused, behind
from lag_engine.routing import (
    NOT_APPLIED,
    Form,
    Fused,
    Generated,
    Latent,
    Pinned,
    Plan,
    Routed,
    Router,
    Selection,
    Slot,
    Update,
)
from lag_engine.routing.scores import accumulation_dtype

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from lag_engine.model.bank import AdapterBank

CHUNK_TOKENS = 512
"""Tokens routed at once: bounds the (T, N) scores of a long prefill."""


class RoutedSlot:
    """A router at work on one module.

    Args:
        router: chooses for each token.
        stack: the module's adapters.
        allowed: rows that may be chosen; (N,) bool; None allows all.
    """

    def __init__(self, router: Router, stack: ResidentStack, allowed: Tensor | None) -> None:
        self.stack = stack
        shared = stack.shared
        self._basis: Tensor | None = None if shared is None else shared.basis
        self._seen: ResidentStack = stack if shared is None else shared.stack
        self._router = router
        self._allowed = allowed
        self._fused: dict[str, Fused | None] = {}

    def update(self, x: Tensor, form: Form) -> Update:
        """Returns the update of the chosen adapters; x is (T, D_in)."""
        if len(x) <= CHUNK_TOKENS:
            return self._update(x, form)
        parts = [self._update(chunk, form) for chunk in x.split(CHUNK_TOKENS)]
        return Update(*map(torch.cat, zip(*parts, strict=True)))

    def _update(self, x: Tensor, form: Form) -> Update:
        fused = self.fused(form)
        found = None if fused is None else fused.update(x)
        if found is not None:
            return found
        x, seen = behind(self._basis, x), self._seen
        choice = self._router.route(x, seen, allowed=self._allowed, form=form)
        total = form.apply(choice.z, choice.weights, choice.rows, seen)
        return Update(total, choice.rows, choice.scores, choice.weights)

    def fused(self, form: Form) -> Fused | None:
        """Returns the form's one call for this slot, or None where it has none."""
        if form.name not in self._fused:
            fuse = form.fuse
            found = None if fuse is None else fuse(self._router, self._seen, self._allowed)
            if found is not None and self._basis is not None:
                found = SharedFused(found, self._basis)
            self._fused[form.name] = found
        return self._fused[form.name]


class PinnedSlot:
    """Fixed adapters on one module; their factors are gathered once.

    Args:
        stack: the module's adapters.
        rows: the pinned ones that update this module; (K,).
        weights: theirs; (K,).
    """

    def __init__(self, stack: ResidentStack, rows: Tensor, weights: Tensor) -> None:
        self.stack = stack
        self._rows, self._weights = rows, weights
        self._factors = stack.gathered(rows)

    def update(self, x: Tensor, form: Form) -> Update:
        """Returns the weighted sum of the updates; x is (T, D_in)."""
        n_tokens, n_pinned = x.shape[0], len(self._rows)
        local = torch.arange(n_pinned, device=x.device)
        z = form.project(x, local, self._factors)
        total = form.apply(z, self._weights, local, self._factors)
        scores = total.new_full((n_tokens, n_pinned), torch.nan)
        shape = (n_tokens, -1)
        return Update(total, self._rows.expand(shape), scores, self._weights.expand(shape))


class Uncovered(NamedTuple):
    """A module that other adapters update but none of the pinned ones: visibly on the base."""

    stack: ResidentStack
    d_out: int

    def update(self, x: Tensor, form: Form) -> Update:
        """Returns a zero update that names no adapter."""
        del form
        none = x.new_zeros((x.shape[0], 1), dtype=accumulation_dtype(x))
        rows = torch.full_like(none, NOT_APPLIED, dtype=torch.long)
        return Update(none.expand(-1, self.d_out), rows, none, none)


ActiveSlot = RoutedSlot | PinnedSlot | Uncovered

_numbers = itertools.count()


class ResolvedSelection:
    """One slot's selection over one state of a library; resolved when a module first asks.

    All but routed ones are pinned in the end: a latent selection on the stack of latent adapters,
    weighted there as its passages' mixtures say, a generated one on a stack of its own.

    Args:
        bank: the library's stacks; must not change while this is used.
        slot: where the selection stands.
        selection: what to apply.

    Raises:
        PlanError: an adapter named in the slot of another kind, or where none of its kind can be.
        AdapterNotFoundError: a name that is not in the library, or is not generated.
    """

    def __init__(self, bank: AdapterBank, slot: Slot, selection: Selection) -> None:
        _check(bank, slot, selection)
        self.slot = slot
        self.number = next(_numbers)  # what is kept about it is kept under this: it can be freed
        self._bank = bank
        self._selection = selection
        self._active: dict[str, ActiveSlot | None] = {}
        self._has_warned = False
        if isinstance(selection, Latent):
            self._mixed = mixed_weights(bank, selection)
        if isinstance(selection, Pinned):
            bank.prefetch(selection.names)
        if isinstance(selection, Generated):
            self._generated = bank.generated.find(selection.names)

    def active(self, module: str, device: torch.device) -> ActiveSlot | None:
        """Returns what is done in one module; None where the library has nothing for it."""
        if module not in self._active:
            stack = self._stack(module, device)
            self._active[module] = None if stack is None else self._over(stack, module)
        return self._active[module]

    def _stack(self, module: str, device: torch.device) -> ResidentStack | None:
        if isinstance(self._selection, Generated):
            made = stack_of(self._generated, module)
            return None if made is None else ResidentStack(made, device)
        kind = "latent" if isinstance(self._selection, Latent) else self.slot
        return self._bank.stack(module, kind, device)

    def _over(self, stack: ResidentStack, module: str) -> ActiveSlot:
        if isinstance(self._selection, Routed):
            self._warn_of_ties(stack)
            return RoutedSlot(self._selection.router, stack, _allowed(self._selection, stack))
        if isinstance(self._selection, Latent):
            return _pin(self._mixed.get(module, {}).items(), stack)
        return _pin(self._selection.items, stack)

    def _warn_of_ties(self, stack: ResidentStack) -> None:
        """Tells once that a score cannot tell the adapters apart."""
        assert isinstance(self._selection, Routed)
        is_blind = getattr(self._selection.router, "score", None) == "projection"
        if is_blind and not self._has_warned and stack.shared is not None:
            self._has_warned = True
            warnings.warn(
                f"All {len(stack.names)} {self.slot} adapters have one lora_A, so that the score "
                "'projection' is equal for all of them and rounding decides which one is applied. "
                "Pass score='norm' or score='relative'.",
                AdapterWarning,
                stacklevel=2,
            )


class ResolvedPlan(NamedTuple):
    """A plan whose slots are resolved; empty slots are left out.

    Attributes:
        plan: what was resolved.
        selections: the slots' selections, shared with other plans that have the same.
    """

    plan: Plan
    selections: tuple[ResolvedSelection, ...]


def _pin(items: Iterable[tuple[str, float]], stack: ResidentStack) -> PinnedSlot | Uncovered:
    """Returns the pinned adapters, by name and weight, that update the stack's module."""
    here = [(stack.row_of[name], weight) for name, weight in items if name in stack.row_of]
    if not here:
        return Uncovered(stack, stack.B(torch.zeros(1, dtype=torch.long)).shape[-1])
    rows, weights = zip(*here, strict=True)
    return PinnedSlot(
        stack,
        torch.tensor(rows, device=stack.device),
        torch.tensor(weights, dtype=stack.dtype, device=stack.device),
    )


def _allowed(selection: Routed, stack: ResidentStack) -> Tensor | None:
    """Returns the candidates of a stack as a mask; (N,)."""
    if selection.candidates is None:
        return None
    rows = [stack.row_of[name] for name in selection.candidates if name in stack.row_of]
    allowed = torch.zeros(len(stack.names), dtype=torch.bool)
    allowed[rows] = True
    return allowed.to(stack.device)


def _check(bank: AdapterBank, slot: Slot, selection: Selection) -> None:
    """Refuses what cannot be applied, before any forward pass."""
    if isinstance(selection, Latent | Generated):
        return
    names = selection.candidates or () if isinstance(selection, Routed) else selection.names
    _refuse_latent(bank, names)
    bank.require(names)
    if isinstance(selection, Pinned):
        _check_kind(bank, slot, names)


def _refuse_latent(bank: AdapterBank, names: Sequence[str]) -> None:
    latent = [name for name in names if name in bank.mixtures or name in bank.names("latent")]
    if latent:
        raise PlanError(
            "Expected adapters that can be pinned or routed to",
            f"Found {', '.join(map(repr, latent[:5]))}: latent adapters, or mixtures of them",
            "Apply passages' mixtures by mode 'polyprag' or a Latent selection",
        )


def _check_kind(bank: AdapterBank, slot: Slot, names: Sequence[str]) -> None:
    others = [name for name in names if name not in bank.names(slot)]
    if others:
        raise PlanError(
            f"Expected {slot} adapters in the {slot} slot",
            f"Found {', '.join(map(repr, others[:5]))} of the other kind",
            "Pin each adapter in the slot of its own kind",
        )
