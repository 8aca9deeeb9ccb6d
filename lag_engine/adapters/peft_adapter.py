"""An adapter as PEFT stores it, in memory: per module `lora_A`, `lora_B` and `scaling`."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from lag_engine.adapters.peft_config import check_config
from lag_engine.adapters.weights import check_values
from lag_engine.errors import AdapterFormatError, DeadAdapterWarning, UnsupportedAdapterError


class LoraModule(NamedTuple):
    """One module's update, `scaling * lora_B @ lora_A`.

    Attributes:
        lora_A: (R, D_in).
        lora_B: (D_out, R).
        scaling: alpha / r, or what PEFT makes of it.
    """

    lora_A: Tensor
    lora_B: Tensor
    scaling: float


@dataclass(frozen=True, eq=False)
class PeftAdapter:
    """An adapter as PEFT stores it, checked.

    Attributes:
        modules: by full dotted path in the base model, without PEFT's prefix.
        base_model: the model it was trained on, as its config names it.
        config: the config as read; may be empty for an adapter made in memory.
        source: the folder or hub id it came from; "" for an adapter made in memory.
    """

    modules: Mapping[str, LoraModule]
    base_model: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""

    @property
    def is_dead(self) -> bool:
        """Whether the update is zero in every module."""
        return not any(
            bool(part.scaling)
            and bool(part.lora_A.float().any())
            and bool(part.lora_B.float().any())
            for part in self.modules.values()
        )


def check_adapter(adapter: PeftAdapter) -> None:
    """Checks an adapter made in memory as `read_peft` checks a folder.

    Raises:
        AdapterFormatError: no module, shapes that do not fit, or values that are not finite.
        UnsupportedAdapterError: its config asks for what cannot be applied exactly.
    """
    source = adapter.source or "the adapter"
    if not adapter.modules:
        raise AdapterFormatError("Expected an adapter with modules", f"found none in {source}")
    if adapter.config:
        check_config(adapter.config, source=source)
    for module, part in adapter.modules.items():
        check_shapes(module, part.lora_A, part.lora_B, source)
    factors = {
        f"{factor} of {module}": tensor
        for module, part in adapter.modules.items()
        for factor, tensor in (("lora_A", part.lora_A), ("lora_B", part.lora_B))
    }
    check_values(factors, source)


def warn_if_dead(adapter: PeftAdapter) -> None:
    """Warns if the adapter changes nothing."""
    if adapter.is_dead:
        warnings.warn(
            f"{adapter.source or 'The adapter'} changes nothing: lora_B (or lora_A) is zero in "
            "every module. It is accepted; was it saved before training?",
            DeadAdapterWarning,
            stacklevel=2,
        )


def check_shapes(module: str, lora_a: Tensor, lora_b: Tensor, source: str) -> None:
    """Checks that the factors are those of a LoRA on one linear module.

    Raises:
        UnsupportedAdapterError: they belong to a convolution.
        AdapterFormatError: they do not fit together.
    """
    shapes = f"lora_A {tuple(lora_a.shape)} and lora_B {tuple(lora_b.shape)}"
    if lora_a.dim() > 2 or lora_b.dim() > 2:
        raise UnsupportedAdapterError(
            "Expected a LoRA on linear modules",
            f"found {shapes} for {module} in {source}: a convolution",
            "train without the convolution",
        )
    fits = lora_a.dim() == lora_b.dim() == 2 and lora_a.shape[0] == lora_b.shape[1]
    if not fits or 0 in (*lora_a.shape, *lora_b.shape):
        raise AdapterFormatError(
            f"Expected lora_A (R, D_in) and lora_B (D_out, R) for {module}",
            f"found {shapes} in {source}",
            "save it again; sharded training (ZeRO-3, FSDP) must gather its weights first",
        )
