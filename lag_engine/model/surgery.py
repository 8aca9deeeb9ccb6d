"""Puts routed modules into a model, and takes them out again."""

from __future__ import annotations

import difflib
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self
from weakref import WeakValueDictionary

from lag_engine.errors import AdapterMismatchError, ModelError
from lag_engine.model.activation import Activation, Part
from lag_engine.model.kernels import default_form
from lag_engine.model.linear import ActivePlans, RoutedLinear, features
from lag_engine.model.resolved import ResolvedPlan, ResolvedSelection
from lag_engine.routing import Form, Plan, Selection, Slot

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import TracebackType

    from torch import nn

    from lag_engine.model.bank import AdapterBank, Shape

Resolved = WeakValueDictionary[tuple[Slot, Selection], ResolvedSelection]
"""The selections in use, each once."""


def install(model: nn.Module, bank: AdapterBank, *, form: Form | None = None) -> Surgery:
    """Replaces every module the bank updates by a `RoutedLinear`; mutates the model.

    Undo with `Surgery.remove`, or use the result as a context manager: afterwards the model holds
    its own modules again and computes bit-identical logits. A failed installation undoes itself.

    Args:
        model: the base model.
        bank: the library's stacks.
        form: how the products are computed; the fastest there is unless told.

    Raises:
        AdapterMismatchError: the library updates a module the model lacks or of another shape.
        ModelError: a module is not linear, or is routed already.
    """
    surgery = Surgery(model, bank, form=form)
    try:
        surgery.refresh()
    except BaseException:
        surgery.remove()
        raise
    return surgery


class Surgery:
    """The routed modules of one model, and the plans they apply; see `install`.

    One thread may use it at a time.

    Args:
        model: the base model; untouched until `refresh`.
        bank: the library's stacks.
        form: how the products are computed; the fastest there is unless told.
    """

    def __init__(self, model: nn.Module, bank: AdapterBank, *, form: Form | None = None) -> None:
        self.bank = bank
        self._model = model
        self._form = default_form() if form is None else form
        self._plans = ActivePlans()
        self._routed: dict[str, RoutedLinear] = {}
        self._resolved: WeakValueDictionary[tuple[Slot, Selection], ResolvedSelection] = (
            WeakValueDictionary()
        )
        self._generation: int | None = None
        self._removed = False

    @property
    def is_current(self) -> bool:
        """Whether the routed modules show the library as it is now."""
        return self.bank.is_current and self.bank.generation == self._generation

    @property
    def modules(self) -> tuple[str, ...]:
        """The full dotted paths of the routed modules."""
        return tuple(self._routed)

    def refresh(self) -> bool:
        """Follows the library: wraps modules newly updated, frees those no longer so.

        Call it between requests, never while plans are active. When it raises, the modules stay as
        they were, and the next call tries again.

        Returns:
            Whether the library had changed.

        Raises:
            AdapterMismatchError: the library updates a module the model lacks or of another shape.
            ModelError: a module is not linear or routed already, plans are active, or the surgery
                was removed.
        """
        self._require_idle()
        self.bank.refresh()
        if self.bank.generation == self._generation:
            return False
        self._resolved = WeakValueDictionary()
        wanted = self.bank.modules
        new = self._new(wanted)
        for name in [name for name in self._routed if name not in wanted]:
            self._unwrap(name)
        for name, base in new.items():
            self._wrap(name, base)
        self._generation = self.bank.generation
        return True

    def cover(self) -> None:
        """Wraps what generated adapters update newly; between forward passes, also of requests.

        Raises:
            AdapterMismatchError: they update a module the model lacks or of another shape.
            ModelError: a module is not linear or routed already.
        """
        self._require_idle()
        for name, base in self._new(self.bank.modules).items():
            self._wrap(name, base)

    def resolve(self, plan: Plan) -> ResolvedPlan:
        """Returns a plan over the library as it is now, to be activated until the next `refresh`.

        Equal selections that are in use share one, and so do their tokens the work of a forward
        pass.

        Raises:
            PlanError: an adapter named in the slot of another kind, or where none of its kind can
                be.
            AdapterNotFoundError: a name that is not in the library, or is not generated.
        """
        selections = []
        for slot in plan.slots:
            selection = plan.selection(slot)
            assert selection is not None
            resolved = self._resolved.get((slot, selection))
            if resolved is None:
                resolved = ResolvedSelection(self.bank, slot, selection)
                self._resolved[slot, selection] = resolved
            selections.append(resolved)
        return ResolvedPlan(plan, tuple(selections))

    @contextmanager
    def activate(self, parts: Sequence[Part | Plan]) -> Iterator[None]:
        """Applies plans to every forward pass inside the context.

        Args:
            parts: whose tokens are whose, in their order; a bare plan stands for an equal share of
                the tokens: for all where it is the only one, else for one row of the batch.

        Raises:
            PlanError: there is no plan; or as for `resolve`.
            AdapterNotFoundError: a name that is not in the library.
            ModelError: other plans are active, or the surgery was removed.
        """
        self._require_idle()
        self._plans.current = Activation(
            [Part(self.resolve(part)) if isinstance(part, Plan) else part for part in parts]
        )
        try:
            yield
        finally:
            self._plans.current = None

    def remove(self) -> None:
        """Puts the model's own modules back; safe to call again."""
        for name in list(self._routed):
            self._unwrap(name)
        self._removed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.remove()

    def _new(self, wanted: Mapping[str, Shape]) -> dict[str, nn.Module]:
        """Returns the model's modules that are wanted and not wrapped yet."""
        return {name: self._base(name, wanted[name]) for name in wanted if name not in self._routed}

    def _wrap(self, name: str, base: nn.Module) -> None:
        routed = RoutedLinear(base, name=name, plans=self._plans, form=self._form)
        self._replace(name, routed)
        self._routed[name] = routed

    def _unwrap(self, name: str) -> None:
        self._replace(name, self._routed[name].base)
        del self._routed[name]

    def _replace(self, name: str, module: nn.Module) -> None:
        parent, _, child = name.rpartition(".")
        setattr(self._model.get_submodule(parent), child, module)

    def _base(self, name: str, shape: Shape) -> nn.Module:
        """Returns the model's module of that name, checked to be one that can be wrapped."""
        try:
            module = self._model.get_submodule(name)
        except AttributeError:
            raise self._missing(name) from None
        if isinstance(module, RoutedLinear):
            raise ModelError(
                f"Expected {name!r} to be a module of the base model",
                "Found it routed already, by another surgery",
                "Remove that one first; one model carries one library at a time",
            )
        found = features(module)
        if found is None:
            raise ModelError(
                f"Expected {name!r} to be a linear module",
                f"Found {type(module).__name__}",
                "Remove the adapters that update it from the library",
            )
        if found != (shape.d_in, shape.d_out):
            raise AdapterMismatchError(
                f"Expected adapters for {name!r} with D_in, D_out = {found}, as the model has it",
                f"Found {(shape.d_in, shape.d_out)} in the library",
                "Open the library that was made for this base model",
            )
        return module

    def _missing(self, name: str) -> AdapterMismatchError:
        linear = [path for path, module in self._model.named_modules() if features(module)]
        near = difflib.get_close_matches(name, linear, n=3)
        return AdapterMismatchError(
            "Expected every target module of the library in the model",
            f"Found no {name!r} in {type(self._model).__name__}"
            + (f"; the nearest are {', '.join(map(repr, near))}" if near else ""),
            "Open the library that was made for this base model",
        )

    def _require_idle(self) -> None:
        if self._removed or self._plans.current is not None:
            raise ModelError(
                "Expected an installed model with no active plans",
                "Found the surgery removed" if self._removed else "Found other plans active",
                "Install again" if self._removed else "Leave the running activation first",
            )
