"""What a PEFT `adapter_config.json` says, and which of it we refuse.

Refused is whatever would make the update differ from `scaling * lora_B @ lora_A` on the untouched
base model. Settings that matter only in training are read over.
"""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lag_engine.adapters.weights import refuse_lfs_pointer
from lag_engine.errors import AdapterFormatError, UnknownFieldWarning, UnsupportedAdapterError

CONFIG_NAME = "adapter_config.json"

# Field -> (what it is, what to do). Refused when the field holds anything but null, false or empty.
_REFUSED_FIELDS = {
    "use_dora": (
        "DoRA rescales the base weights, so it is no low-rank update",
        "train without use_dora, or merge the adapter into its own base model",
    ),
    "modules_to_save": (
        "modules_to_save replaces whole modules of the base model",
        "train without modules_to_save; if those weights do not matter, drop them and the field",
    ),
    "lora_bias": ("lora_bias adds a trained bias to the update", "train with lora_bias=False"),
    "trainable_token_indices": (
        "trainable_token_indices changes rows of the embedding",
        "train without trainable_token_indices",
    ),
    "target_parameters": (
        "target_parameters updates bare parameters (mixture-of-experts weights), not modules",
        "train on linear modules through target_modules",
    ),
    "alora_invocation_tokens": (
        "activated LoRA (aLoRA) applies only after its invocation tokens",
        "train without alora_invocation_tokens",
    ),
    "layer_replication": (
        "layer_replication repeats layers of the base model",
        "build the replicated model first and train a plain LoRA on it",
    ),
    "use_qalora": ("QALoRA pools the input of every update", "train without use_qalora"),
    "use_bdlora": ("BD-LoRA stores block-diagonal factors", "train without use_bdlora"),
    "arrow_config": (
        "an Arrow router holds no update of its own",
        "add the adapters that it routes over, one by one; this library routes them itself",
    ),
    "kasa_config": ("KaSA truncates the base weights", "train without kasa_config"),
    "monteclora_config": ("MonteCLoRA samples its update", "train without monteclora_config"),
    "megatron_config": ("Megatron layers are not part of the base model here", "export to PEFT"),
    "enable_lora": (
        "enable_lora (PEFT before 0.3) covers parts of a fused projection",
        "load it with the PEFT version that trained it and save it again with a current one",
    ),
}

_RESIDUAL_INITS = ("pissa", "olora", "corda", "loftq", "lora_ga")
_PLAIN_INITS = ("gaussian", "eva", "orthogonal", "mica", "true", "false")

_READ_FIELDS = {
    "alpha_pattern",
    "auto_mapping",
    "base_model_name_or_path",
    "bias",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "exclude_modules",
    "fan_in_fan_out",
    "inference_mode",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_alpha",
    "lora_dropout",
    "lora_ga_config",
    "megatron_core",
    "merge_weights",
    "parent_library",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "r",
    "rank_pattern",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
    "use_rslora",
    "velora_config",
}


def read_config(folder: Path) -> dict[str, Any]:
    """Reads and checks a folder's adapter config.

    Raises:
        AdapterFormatError: the file is missing, no JSON object, or a Git-LFS pointer.
        UnsupportedAdapterError: the config asks for something that cannot be applied exactly.

    Warns:
        UnknownFieldWarning: a field is set that this version has not heard of; it is not applied.
    """
    path = folder / CONFIG_NAME
    if not path.is_file():
        inside = len(list(folder.glob(f"*/{CONFIG_NAME}")))
        raise AdapterFormatError(
            f"Expected a PEFT adapter folder with {CONFIG_NAME}",
            f"found no such file in {folder}" + (f", but {inside} adapters" if inside else ""),
            f"pass these, in a shell as {folder}/*"
            if inside
            else "pass the folder that PEFT's save_pretrained wrote",
        )
    refuse_lfs_pointer(path)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _not_an_object(path, str(error)) from error
    if not isinstance(config, dict):
        raise _not_an_object(path, type(config).__name__)
    check_config(config, source=str(folder))
    return config


def _not_an_object(path: Path, found: str) -> AdapterFormatError:
    return AdapterFormatError(
        f"Expected a JSON object in {path}", f"found: {found}", "save the adapter again"
    )


def check_config(config: Mapping[str, Any], *, source: str) -> None:
    """Refuses by name what cannot be applied exactly; warns of fields that nobody knows."""
    peft_type = config.get("peft_type")
    if str(peft_type).upper().removeprefix("PEFTTYPE.") != "LORA":
        raise UnsupportedAdapterError(
            "Expected an adapter of PEFT type LORA",
            f"found {peft_type!r} in {source}",
            "train a LoRA, or convert it with peft.convert_to_lora where PEFT offers that",
        )
    for field, (reason, action) in _REFUSED_FIELDS.items():
        if config.get(field):
            raise _unsupported(f"{field}={config[field]!r}", source, reason, action)
    if config.get("bias") not in (None, False, "none"):
        raise _unsupported(
            f"bias={config['bias']!r}",
            source,
            "biases of the base model were trained with it",
            "train with bias='none'; if the base model has no biases, set the field to 'none'",
        )
    _check_init(config.get("init_lora_weights"), source)
    _warn_of_unknown_fields(config, source)


def _check_init(init: object, source: str) -> None:
    name = str(init).lower()
    if name.startswith(_RESIDUAL_INITS):
        raise _unsupported(
            f"init_lora_weights={init!r}",
            source,
            "its weights belong to a changed (residual or quantised) copy of the base model",
            "save it again with save_pretrained(..., path_initial_model_for_weight_conversion=...)",
        )
    if init is not None and name not in _PLAIN_INITS:
        raise _unsupported(
            f"init_lora_weights={init!r}",
            source,
            "whether this initialisation changes the base model is not known",
            "if it does not, set the field to true in the config",
        )


def _unsupported(found: str, source: str, reason: str, action: str) -> UnsupportedAdapterError:
    return UnsupportedAdapterError(
        "Expected a plain LoRA, which can be applied exactly",
        f"found {found} in {source}: {reason}",
        action,
    )


def _warn_of_unknown_fields(config: Mapping[str, Any], source: str) -> None:
    known = _READ_FIELDS | _REFUSED_FIELDS.keys()
    unknown = sorted(field for field in config.keys() - known if config[field])
    if unknown:
        warnings.warn(
            f"{source} sets fields that this version does not know and does not apply: "
            f"{', '.join(unknown)}. Check that they matter only in training.",
            UnknownFieldWarning,
            stacklevel=2,
        )


def rank_of(config: Mapping[str, Any], module: str) -> int:
    """Returns the rank the config promises for the module, as PEFT reads it."""
    return int(_matched(config.get("rank_pattern"), module, config.get("r", 8)))


def scaling_of(config: Mapping[str, Any], module: str, rank: int) -> float:
    """Returns the factor of the update: alpha / r, or alpha / sqrt(r) with rank stabilisation."""
    alpha = float(_matched(config.get("alpha_pattern"), module, config.get("lora_alpha", 8)))
    return alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank


def _matched(patterns: Mapping[str, Any] | None, module: str, default: object) -> Any:
    """The first pattern that matches the end of the path decides (PEFT's get_pattern_key)."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def is_targeted(config: Mapping[str, Any], module: str) -> bool:
    """Says whether PEFT would give the module an update under this config.

    A null or "all-linear" target means whatever the weights file holds.
    """
    if _names_module(config.get("exclude_modules") or [], module):
        return False
    targets = config.get("target_modules")
    if targets is None or targets == "all-linear":
        return True
    if isinstance(targets, str):
        return re.fullmatch(targets, module) is not None
    if module in targets:
        return True
    return _names_module(targets, module) and _in_layers(config, module)


def _names_module(names: str | Iterable[str], module: str) -> bool:
    if isinstance(names, str):
        return re.fullmatch(names, module) is not None
    return any(module == name or module.endswith(f".{name}") for name in names)


def _in_layers(config: Mapping[str, Any], module: str) -> bool:
    wanted = config.get("layers_to_transform")
    if wanted is None or wanted == []:
        return True
    layer = _layer_index(config.get("layers_pattern") or [r"[^.]*"], module)
    return layer is not None and layer in ([wanted] if isinstance(wanted, int) else wanted)


def _layer_index(patterns: str | list[str], module: str) -> int | None:
    """The first number that follows one of the patterns in the path."""
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        if found := re.match(rf"(?:^|.*?\.){pattern}\.(?P<index>\d+)\.", module):
            return int(found["index"])
    return None
