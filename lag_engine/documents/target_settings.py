"""Which modules an encoder's adapters update, and with what size."""

from __future__ import annotations

import re
from dataclasses import dataclass

from torch import nn

from lag_engine.adapters.base_model import describe_base
from lag_engine.documents.sequence_settings import SequenceSettings
from lag_engine.errors import AdapterMismatchError

_LAYER = re.compile(r"\.(\d+)\.")


@dataclass(frozen=True)
class TargetSettings(SequenceSettings):
    """The adapters' shape.

    Attributes:
        rank: R of each adapter.
        alpha: `scaling = alpha / rank`.
        targets: Ends of dotted module paths, as in PEFT.
        layers: Of which layers; None: of all.
        **others: As for `SequenceSettings`.
    """

    rank: int = 2
    alpha: float = 32.0
    targets: tuple[str, ...] = ("gate_proj", "up_proj", "down_proj")
    layers: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._refuse_unless_positive("rank", "alpha")

    def target_paths(self, model: nn.Module) -> list[str]:
        """Full dotted paths of the modules to adapt, in the model's order.

        Raises:
            AdapterMismatchError: A target is the end of no linear module's path.
        """
        linears = _linears(model)
        names = [name for name in linears if self._has_layer(name)]
        for target in self.targets or ("",):
            if not any(_ends_with(name, target) for name in names):
                kinds = ", ".join(sorted({name.rpartition(".")[2] for name in linears}))
                where = f" in layers {self.layers}" if self.layers is not None else ""
                raise AdapterMismatchError(
                    f"Expected linear modules of {type(model).__name__} whose paths end in "
                    f"{target!r}",
                    f"found none{where}; its linear modules are {kinds or 'of no usable kind'}",
                    "name the ends of paths as in model.named_modules()",
                )
        return [name for name in names if any(_ends_with(name, t) for t in self.targets)]

    def _has_layer(self, name: str) -> bool:
        found = _LAYER.search(name)
        return self.layers is None or (found is not None and int(found[1]) in self.layers)


def _linears(model: nn.Module) -> list[str]:
    """The paths of what can be adapted: GPT-2's Conv1D and the output embeddings cannot."""
    base = describe_base(model)  # type: ignore[arg-type]
    embeddings = getattr(model, "get_output_embeddings", lambda: None)()
    excluded = {name for name, module in model.named_modules() if module is embeddings}
    return [name for name in base.shapes or () if name not in excluded | base.transposed]


def _ends_with(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")
