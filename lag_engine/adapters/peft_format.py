"""PEFT LoRA folders, read and written: per module `lora_A`, `lora_B` and `scaling`.

The tensors in the file decide which modules are updated and how large they are. GPT-2's Conv1D
stores its own weight transposed, but PEFT stores `lora_A` (R, D_in) and `lora_B` (D_out, R) for it
as for any other module, whatever `fan_in_fan_out` says; the flag is therefore not needed.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from lag_engine.adapters.hub import locate
from lag_engine.adapters.peft_adapter import (
    LoraModule,
    PeftAdapter,
    check_adapter,
    check_shapes,
    warn_if_dead,
)
from lag_engine.adapters.peft_config import (
    CONFIG_NAME,
    is_targeted,
    rank_of,
    read_config,
    scaling_of,
)
from lag_engine.adapters.weights import SAFETENSORS_NAME, read_weights
from lag_engine.errors import (
    AdapterFormatError,
    UnsupportedAdapterError,
)

__all__ = ["LoraModule", "PeftAdapter", "read_peft", "write_peft"]

_PREFIX = "base_model.model."
_FACTOR = re.compile(r"(?P<module>.+)\.lora_(?P<factor>[AB])(\.(?P<adapter>[^.]+))?\.weight")
_WRAPPERS = re.compile(r"(?:_orig_mod|_fsdp_wrapped_module)\.")

# Part of a tensor's name -> (what it is, what to do).
_FOREIGN_TENSORS = {
    "lora_magnitude_vector": ("a DoRA magnitude", "train without use_dora"),
    "lora_embedding_": ("a LoRA on an embedding", "train on linear modules only"),
    ".base_layer.lora_": ("a LoRA on a bare parameter", "train through target_modules only"),
    "modules_to_save": ("a module of modules_to_save", "train without modules_to_save"),
    ".bias": ("a trained bias", "train with bias='none' and lora_bias=False"),
}
_WHOLE = (
    "a whole weight, or a factor of another method",
    "save the adapter without modules_to_save and with save_embedding_layers=False",
)


def read_peft(
    source: str | Path, *, revision: str | None = None, allow_pickle: bool = False
) -> PeftAdapter:
    """Reads a PEFT LoRA adapter from a folder or a hub id.

    Args:
        source: a folder that exists, else a hub id `owner/name`.
        revision: branch, tag or commit of a hub id.
        allow_pickle: also read `adapter_model.bin` (always with `weights_only=True`).

    Returns:
        The adapter; every tensor finite, shapes consistent with the config.

    Raises:
        AdapterFormatError: missing, truncated, corrupt, a Git-LFS pointer, not finite, or config
            and weights contradict each other.
        UnsupportedAdapterError: it cannot be applied exactly; the message names why.

    Warns:
        DeadAdapterWarning: the update is zero in every module.
        UnknownFieldWarning: the config sets a field this version has not heard of.
    """
    folder = locate(source, revision=revision, allow_pickle=allow_pickle)
    config = read_config(folder)
    tensors = read_weights(folder, allow_pickle=allow_pickle)
    modules = _lora_modules(tensors, config, str(source))
    base_model = config.get("base_model_name_or_path") or None
    adapter = PeftAdapter(modules, base_model, config, str(source))
    warn_if_dead(adapter)
    return adapter


def _lora_modules(
    tensors: Mapping[str, Tensor], config: Mapping[str, Any], source: str
) -> dict[str, LoraModule]:
    try:
        return {
            module: _lora_module(module, factors, config, source)
            for module, factors in _by_module(tensors, source).items()
        }
    except (re.error, TypeError, ValueError, AttributeError) as error:
        raise AdapterFormatError(
            "Expected a config whose ranks, alphas and patterns PEFT can read",
            f"found in {source}: {error}",
            "correct the config",
        ) from error


def _by_module(tensors: Mapping[str, Tensor], source: str) -> dict[str, dict[str, Tensor]]:
    """Groups the factors by module; sorted by path."""
    modules: dict[str, dict[str, Tensor]] = {}
    owners, foreign = set(), []
    for name, tensor in tensors.items():
        match = _FACTOR.fullmatch(_WRAPPERS.sub("", name).removeprefix(_PREFIX))
        if match is None or match["module"].endswith("base_layer"):
            foreign.append(name)
            continue
        owners.add(match["adapter"])
        modules.setdefault(match["module"], {})[match["factor"]] = tensor
    if foreign:
        raise _not_factors(foreign, source)
    if not modules or len(owners) > 1:
        found = f"adapters {sorted(map(str, owners))} in one file" if owners else "no tensor"
        action = "save each adapter in a folder of its own" if owners else "save it again"
        raise AdapterFormatError("Expected one LoRA adapter", f"found {found} in {source}", action)
    return dict(sorted(modules.items()))


def _not_factors(names: list[str], source: str) -> UnsupportedAdapterError:
    """The error that names the most telling of the tensors that are no factors."""
    told = [
        (name, *_FOREIGN_TENSORS[mark])
        for mark in _FOREIGN_TENSORS
        for name in names
        if mark in name
    ]
    name, reason, action = told[0] if told else (names[0], *_WHOLE)
    return UnsupportedAdapterError(
        "Expected lora_A and lora_B of linear modules, which can be applied exactly",
        f"found {name!r} in {source}: {reason}",
        action,
    )


def _lora_module(
    module: str, factors: Mapping[str, Tensor], config: Mapping[str, Any], source: str
) -> LoraModule:
    if factors.keys() != {"A", "B"}:
        raise AdapterFormatError(
            f"Expected lora_A and lora_B of {module}",
            f"found only lora_{next(iter(factors))} in {source}",
            "save the adapter again",
        )
    lora_a, lora_b = factors["A"], factors["B"]
    check_shapes(module, lora_a, lora_b, source)
    if not is_targeted(config, module):
        raise AdapterFormatError(
            "Expected the config to target every module of the weights file",
            f"found factors of {module} in {source}, which target_modules, exclude_modules or "
            "layers_to_transform leave out (PEFT would load them nowhere)",
            "remove these tensors, or correct the config",
        )
    rank = rank_of(config, module)
    if rank != lora_a.shape[0]:
        raise AdapterFormatError(
            f"Expected rank {rank} for {module}, as r and rank_pattern say",
            f"found lora_A {tuple(lora_a.shape)} in {source}",
            "correct the config: the scaling depends on the rank",
        )
    return LoraModule(lora_a, lora_b, scaling_of(config, module, rank))


def write_peft(folder: str | Path, adapter: PeftAdapter) -> None:
    """Writes an adapter as a PEFT folder that PEFT loads with equal output.

    Modules of different rank or scaling are told apart by `rank_pattern` and `alpha_pattern`.

    Args:
        folder: is created; an adapter that is already in it is an error.
        adapter: its tensors are written in their own dtype.

    Raises:
        AdapterFormatError: the folder holds an adapter already, or the adapter holds no module.
    """
    folder = Path(folder)
    if (folder / CONFIG_NAME).exists() or (folder / SAFETENSORS_NAME).exists():
        raise AdapterFormatError(
            "Expected a folder without an adapter", f"found one in {folder}", "choose another"
        )
    check_adapter(adapter)
    config = _config_of(adapter)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(_state_dict(adapter), folder / SAFETENSORS_NAME, metadata={"format": "pt"})
    (folder / CONFIG_NAME).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def _state_dict(adapter: PeftAdapter) -> dict[str, Tensor]:
    tensors = {}
    for module, part in adapter.modules.items():
        # Clones: safetensors refuses tensors that share memory.
        tensors[f"{_PREFIX}{module}.lora_A.weight"] = _own(part.lora_A)
        tensors[f"{_PREFIX}{module}.lora_B.weight"] = _own(part.lora_B)
    return tensors


def _own(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu").clone(memory_format=torch.contiguous_format)


def _config_of(adapter: PeftAdapter) -> dict[str, Any]:
    """The most common rank and alpha are the default; the others stand in patterns."""
    ranks = {module: part.lora_A.shape[0] for module, part in adapter.modules.items()}
    alphas = {
        module: _whole(part.scaling * ranks[module]) for module, part in adapter.modules.items()
    }
    rank, alpha = _most_common(ranks), _most_common(alphas)
    given = adapter.config
    return {
        "peft_type": "LORA",
        "task_type": given.get("task_type", "CAUSAL_LM"),
        "base_model_name_or_path": adapter.base_model,
        "revision": given.get("revision"),
        "inference_mode": True,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": bool(given.get("fan_in_fan_out", False)),
        "use_rslora": False,
        "init_lora_weights": True,
        "modules_to_save": None,
        "target_modules": sorted(adapter.modules),
        "rank_pattern": {module: r for module, r in ranks.items() if r != rank},
        "alpha_pattern": {module: a for module, a in alphas.items() if a != alpha},
    }


def _most_common(values: Mapping[str, Any]) -> Any:
    return Counter(values.values()).most_common(1)[0][0]


def _whole(alpha: float) -> float | int:
    return int(alpha) if alpha == int(alpha) else alpha
