"""A linear module with updates on top: base(x) + what the active plans add."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lag_engine.routing import GROUPED, Form, Slot

if TYPE_CHECKING:
    from lag_engine.model.activation import Activation, ActiveSlot, Group


class ActivePlans:
    """What the routed modules of one model apply now; None applies nothing."""

    def __init__(self) -> None:
        self.current: Activation | None = None


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
            x: (B, ..., D_in); B is the number of plans where they differ.
            *args: handed to the base.
            **kwargs: handed to the base.

        Raises:
            ModelError: plans differ by row and x has other rows.
        """
        out: Tensor = self.base(x, *args, **kwargs)
        active = self._plans.current
        if active is None or not active.groups:
            return out
        active.check_batch(x, self.name)
        for group in active.groups:
            out = self._add_group(out, x, group, active)
        return out

    def _add_group(self, out: Tensor, x: Tensor, group: Group, active: Activation) -> Tensor:
        """Returns `out` with one plan's updates added to the rows that have it."""
        slots = active.slots(self.name, group, x.device)
        if not slots:
            return out
        rows = None
        if group.requests is not None:
            rows = torch.tensor(group.requests, device=x.device)
            x = x[rows]
        updates = [self._update(x, slot, found, group, active) for slot, found in slots]
        total = updates[0] if len(updates) == 1 else updates[0] + updates[1]
        total = total.to(out.dtype).view(*x.shape[:-1], -1)
        return out + total if rows is None else out.index_add(0, rows, total)

    def _update(
        self, x: Tensor, slot: Slot, found: ActiveSlot, group: Group, active: Activation
    ) -> Tensor:
        """Returns one slot's update of all positions of x; (positions, D_out)."""
        update = found.update(x.reshape(-1, x.shape[-1]), self.form)
        if active.recorder is not None:
            n_rows = x.shape[0] if x.dim() > 2 else 1
            shape = (n_rows, -1, update.rows.shape[-1])
            active.recorder.record(
                self.name,
                slot,
                found.stack.names,
                requests=group.requests or tuple(range(n_rows)),
                rows=update.rows.reshape(shape),
                scores=update.scores.reshape(shape),
                weights=update.weights.reshape(shape),
            )
        return update.total


def features(module: nn.Module) -> tuple[int, int] | None:
    """Returns the (D_in, D_out) of a linear module, or None where it is not one."""
    if isinstance(module, Conv1D):
        return module.nx, module.nf  # its weight is (D_in, D_out), the transpose of nn.Linear's
    if isinstance(module, RoutedLinear):
        return features(module.base)
    d_in, d_out = getattr(module, "in_features", None), getattr(module, "out_features", None)
    return (d_in, d_out) if isinstance(d_in, int) and isinstance(d_out, int) else None
