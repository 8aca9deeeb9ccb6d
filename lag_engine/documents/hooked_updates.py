"""Updates on linear modules for as long as a context lasts, with gradients where they have them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

UpdateOf = Callable[[Tensor], Tensor]
"""From a module's input (..., D_in) to what is added to its output (..., D_out)."""


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Leaves the model's weights without gradients inside the context."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    model.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


@contextmanager
def hooked(model: nn.Module, updates: Mapping[str, UpdateOf]) -> Iterator[None]:
    """Adds updates to the outputs of modules, by their full dotted paths."""
    handles = []
    try:
        for name, update in updates.items():
            handles.append(model.get_submodule(name).register_forward_hook(_adding(update)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _adding(update: UpdateOf) -> Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor]:
    def hook(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        return output + update(args[0]).to(output.dtype)

    return hook
