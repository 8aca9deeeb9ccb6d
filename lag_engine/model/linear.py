"""A linear module with updates on top: base(x) + what the active plans add."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lag_engine.model.resolved import CHUNK_TOKENS, RoutedSlot
from lag_engine.routing import GROUPED, Form, Update

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from lag_engine.model.activation import Activation, Group, Layout
    from lag_engine.model.resolved import ActiveSlot
    from lag_engine.routing import Fused


class ActivePlans:
    """What the routed modules of one model apply now; None applies nothing."""

    def __init__(self) -> None:
        self.current: Activation | None = None


class Set(NamedTuple):
    """Groups whose tokens are routed over one stack, in one call.

    Attributes:
        members: which groups.
        first: the call of the first one.
        others: those of the others.
    """

    members: tuple[int, ...]
    first: Fused
    others: tuple[Fused, ...]


class Ways(NamedTuple):
    """What some selections do in one module.

    Attributes:
        numbers: of the selections whose ways these are.
        sets: groups that are called together.
        only: the one set, where nothing else is done here.
    """

    numbers: tuple[int, ...]
    sets: tuple[Set, ...]
    only: Set | None


class RoutedLinear(nn.Module):
    """The output of an untouched linear module, plus the updates of the active plans.

    Works over `nn.Linear` and its quantised children, `Conv1D`, and any module whose `features`
    are known: the base is only called. Products run in float32 or better; the output has the
    base's dtype. Without an active plan the output is the base's own tensor.

    Args:
        base: the module; kept as `.base`.
        name: its full dotted path in the model.
        plans: shared with the surgery that sets them.
        form: how the products are computed.
    """

    def __init__(
        self, base: nn.Module, *, name: str, plans: ActivePlans, form: Form = GROUPED
    ) -> None:
        super().__init__()
        self.base = base
        self.name = name
        self.form = form
        self._plans = plans
        self._ways: Ways | None = None
        self.train(base.training)

    def __getattr__(self, name: str) -> Any:
        # Models read attributes of their linears, such as weight.dtype or out_features.
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("base"), name)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Returns base(x) plus the updates; (..., D_out).

        Args:
            x: (..., D_in).
            *args: handed to the base.
            **kwargs: handed to the base.

        Raises:
            ModelError: plans differ, and whose tokens these are cannot be told.
        """
        out: Tensor = self.base(x, *args, **kwargs)
        active = self._plans.current
        if active is None:
            return out
        layout = active.layout(x, self.name)
        if not layout.groups:
            return out
        ways = self._ways
        if ways is None or ways.numbers != layout.numbers:
            ways = self._ways = self._find_ways(layout, x.device)
        only = ways.only
        if only is not None and not layout.is_recorded and layout.n_tokens <= CHUNK_TOKENS:
            owners = layout.owners(only.members)
            added = only.first.added(out, x, others=only.others, owners=owners)
            if added is not None:
                return added
        return self._add_groups(out, x.reshape(-1, x.shape[-1]), layout, ways)

    def _find_ways(self, layout: Layout, device: torch.device) -> Ways:
        """Returns what the selections do here."""
        found = [group.selection.active(self.name, device) for group in layout.groups]
        sets = self._sets(found)
        n_active = sum(slot is not None for slot in found)
        is_all = len(sets) == 1 and len(sets[0].members) == n_active
        return Ways(layout.numbers, sets, sets[0] if is_all else None)

    def _add_groups(self, out: Tensor, x: Tensor, layout: Layout, ways: Ways) -> Tensor:
        """Returns the base's output plus the updates of all groups; x is (T, D_in)."""
        done: set[int] = set()
        total = None  # (T, D_out), of all slots and plans
        if len(layout.groups) > 1:
            total = self._add_together(x, layout, ways, done)
        for index, group in enumerate(layout.groups):
            if index not in done:
                total = self._add(total, x, group)
        return out if total is None else out + total.to(out.dtype).view(out.shape)

    def _add_together(self, x: Tensor, layout: Layout, ways: Ways, done: set[int]) -> Tensor | None:
        """Returns the updates of groups that route over one stack, each set in one call.

        Args:
            x: (T, D_in).
            layout: of the module's tokens.
            ways: what its selections do here.
            done: takes the groups whose updates are in the result.
        """
        total = None
        for members, first, others in ways.sets:
            if not others:
                continue
            update = first.update(x, others=others, owners=layout.owners(members))
            if update is None:
                continue
            done.update(members)
            total = update.total if total is None else total + update.total
            for member in members if layout.is_recorded else ():
                self._record_part(layout.groups[member], update)
        return total

    def _sets(self, found: Sequence[ActiveSlot | None]) -> tuple[Set, ...]:
        """Returns the slots that can be called together; a set may have but one."""
        sets: dict[int, tuple[list[int], list[Fused]]] = {}
        for index, slot in enumerate(found):
            fused = slot.fused(self.form) if isinstance(slot, RoutedSlot) else None
            if fused is not None:
                members, slots = sets.setdefault(id(fused.stack), ([], []))
                members.append(index)
                slots.append(fused)
        return tuple(
            Set(tuple(members), slots[0], tuple(slots[1:])) for members, slots in sets.values()
        )

    def _record_part(self, group: Group, update: Update) -> None:
        """Records what one of several plans chose; as wide as it chooses alone."""
        if not group.is_recorded:
            return
        found = group.selection.active(self.name, update.total.device)
        assert isinstance(found, RoutedSlot)
        fused = found.fused(self.form)
        assert fused is not None
        chosen = (
            (part if group.tokens is None else part[group.tokens])[:, : fused.width]
            for part in (update.rows, update.scores, update.weights)
        )
        group.record(self.name, found.stack.names, Update(update.total, *chosen))

    def _add(self, total: Tensor | None, x: Tensor, group: Group) -> Tensor | None:
        """Returns `total` with one selection's updates of its tokens; (T, D_out)."""
        found = group.selection.active(self.name, x.device)
        if found is None:
            return total
        update = found.update(x if group.tokens is None else x[group.tokens], self.form)
        group.record(self.name, found.stack.names, update)
        if group.tokens is None:
            return update.total if total is None else total + update.total
        if total is None:
            total = update.total.new_zeros(len(x), update.total.shape[-1])
        return total.index_add(0, group.tokens, update.total)


def features(module: nn.Module) -> tuple[int, int] | None:
    """Returns the (D_in, D_out) of a linear module, or None where it is not one."""
    if isinstance(module, Conv1D):
        return module.nx, module.nf  # its weight is (D_in, D_out), the transpose of nn.Linear's
    if isinstance(module, RoutedLinear):
        return features(module.base)
    d_in, d_out = getattr(module, "in_features", None), getattr(module, "out_features", None)
    return (d_in, d_out) if isinstance(d_in, int) and isinstance(d_out, int) else None
