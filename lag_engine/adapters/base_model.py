"""The base model as a library sees it: a name, and the widths of its linear modules.

Whether an adapter belongs to it is decided by both. Shapes alone cannot tell a model from its
instruction-tuned copy, so a differing name is refused even where the shapes fit, unless the caller
says otherwise; the paper itself applies adapters of the pretrained model to the instruct model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn

from lag_engine.adapters.hub import short_name
from lag_engine.adapters.peft_adapter import PeftAdapter
from lag_engine.adapters.stack import ModuleShape
from lag_engine.errors import AdapterMismatchError, ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class BaseModel(NamedTuple):
    """What a library knows of its base model.

    Attributes:
        name: hub id or path as the caller gave it; None if unknown.
        shapes: module path to widths, for every linear module; None if the config was not at hand.
        transposed: the modules that store their weight as (D_in, D_out), GPT-2's Conv1D.
    """

    name: str | None
    shapes: Mapping[str, ModuleShape] | None
    transposed: frozenset[str]

    @property
    def fingerprint(self) -> str | None:
        """A hash of module paths and widths; equal for models that take the same adapters."""
        if self.shapes is None:
            return None
        lines = [f"{module} {d_in} {d_out}" for module, (d_in, d_out) in self.shapes.items()]
        return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def describe_base(model: str | Path | PreTrainedModel | None) -> BaseModel:
    """Returns what can be known of the model without loading weights or using the network.

    A path or cached hub id is built from its config on the meta device.

    Raises:
        ModelError: a local folder is given, but its config cannot be read.
    """
    if model is None:
        return BaseModel(None, None, frozenset())
    if isinstance(model, nn.Module):
        return _describe(getattr(model.config, "_name_or_path", "") or None, model)
    built = _build_on_meta(str(model))
    return (
        BaseModel(str(model), None, frozenset()) if built is None else _describe(str(model), built)
    )


def _build_on_meta(name: str) -> nn.Module | None:
    """The model without weights; None if its config is neither a local folder nor cached."""
    # Seconds of import that a library whose base is no path does not need.
    from transformers import AutoConfig, AutoModelForCausalLM

    is_local = Path(name).expanduser().is_dir()
    path = str(Path(name).expanduser()) if is_local else name
    try:
        config = AutoConfig.from_pretrained(path, local_files_only=True)
        with torch.device("meta"):
            model: nn.Module = AutoModelForCausalLM.from_config(config)
    except (OSError, ValueError, KeyError) as error:
        if not is_local:
            return None
        raise ModelError(
            f"Expected a causal language model's folder at {name}",
            f"found: {error}",
            "pass the folder that holds its config.json, or the model itself",
        ) from error
    return model


def _describe(name: str | None, model: nn.Module) -> BaseModel:
    shapes, transposed = {}, set()
    for path, module in model.named_modules():
        if path.endswith(".base") and path.removesuffix(".base") in shapes:
            continue  # an engine's wrapping around a module that is counted already
        if type(module).__name__ == "Conv1D" and hasattr(module, "nf"):
            transposed.add(path)
            shapes[path] = ModuleShape(*module.weight.shape)
        elif shape := _linear_shape(module):
            shapes[path] = shape
    return BaseModel(name, shapes, frozenset(transposed))


def _linear_shape(module: nn.Module) -> ModuleShape | None:
    d_in, d_out = (getattr(module, name, None) for name in ("in_features", "out_features"))
    return ModuleShape(d_in, d_out) if isinstance(d_in, int) and isinstance(d_out, int) else None


def is_same_base(ours: str | None, theirs: str | None) -> bool:
    """Says whether two names mean one base model; an unknown name contradicts nothing.

    Compared by the last part of path or hub id, without regard to case: a model keeps that when it
    is downloaded or moved.
    """
    if not ours or not theirs:
        return True
    return short_name(ours).lower() == short_name(theirs).lower()


def check_base(
    adapter: PeftAdapter,
    base: BaseModel,
    known: Mapping[str, ModuleShape],
    *,
    allow_other_base: bool,
) -> None:
    """Refuses an adapter of another base model.

    Args:
        adapter: the newcomer.
        base: the library's base model.
        known: widths of the modules that adapters of the library update already; what there is to
            compare with when the base model's own shapes are unknown.
        allow_other_base: accept a differing name as long as modules and shapes fit.

    Raises:
        AdapterMismatchError: other name, unknown modules, or other widths.
    """
    shapes = known if base.shapes is None else base.shapes
    source = adapter.source or "the adapter"
    if base.shapes is not None:
        _check_modules(adapter, base, source)
    for module, part in adapter.modules.items():
        found = ModuleShape(part.lora_A.shape[1], part.lora_B.shape[0])
        if module in shapes and shapes[module] != found:
            raise AdapterMismatchError(
                f"Expected {module} with D_in {shapes[module].d_in} and D_out "
                f"{shapes[module].d_out}, as in {base.name or 'this library'}",
                f"found D_in {found.d_in} and D_out {found.d_out} in {source}",
                "use an adapter of this base model",
            )
    if not allow_other_base and not is_same_base(base.name, adapter.base_model):
        raise AdapterMismatchError(
            f"Expected an adapter of {base.name}",
            f"found one of {adapter.base_model} in {source}; its modules and shapes are not in "
            "contradiction",
            "if the two are one model, or you want this adapter on the other model, pass "
            "allow_other_base=True (--allow-other-base on the command line)",
        )


def _check_modules(adapter: PeftAdapter, base: BaseModel, source: str) -> None:
    assert base.shapes is not None
    unknown = [module for module in adapter.modules if module not in base.shapes]
    if unknown:
        some = ", ".join(unknown[:3]) + (", ..." if len(unknown) > 3 else "")
        known = next((path for path in base.shapes if path.endswith(unknown[0][-6:])), None)
        example = known or next(iter(base.shapes), "none")
        raise AdapterMismatchError(
            f"Expected linear modules of {base.name or 'the base model'} (such as {example})",
            f"found {len(unknown)} that it lacks in {source}: {some}",
            "use an adapter of this base model",
        )
