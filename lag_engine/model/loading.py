"""From a model's name or folder to a model and tokenizer that are ready to be routed."""

from __future__ import annotations

import difflib
import importlib.util
import os
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import torch
from safetensors import SafetensorError
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from lag_engine.errors import ModelError

TINY = "lag-tiny"
"""The name of the model that ships with the package."""

SMALL_MODEL_PARAMETERS = 1_000_000_000
HALF = (torch.bfloat16, torch.float16)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

Dtype = Literal["auto", "float32", "bfloat16", "float16"] | torch.dtype
Quantization = Literal["4bit", "8bit"]


class LoadedModel(NamedTuple):
    """A model in evaluation mode on its device, its tokenizer, and the name it was asked for by."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str


def load(
    model: str | Path,
    *,
    device: str = "auto",
    dtype: Dtype = "auto",
    quantization: Quantization | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> LoadedModel:
    """Loads a causal language model and its tokenizer.

    With ``dtype="auto"`` the model keeps its checkpoint's dtype, except that on a CPU a half
    precision checkpoint of fewer than a billion parameters runs in float32: there it is exact, and
    no slower.

    Args:
        model: "lag-tiny", a model folder, or a hub id.
        device: "auto" takes the first CUDA device, else the CPU; or a torch device name.
        dtype: "auto", a torch dtype or its name.
        quantization: "4bit" or "8bit" through bitsandbytes.
        revision: of the hub id.
        trust_remote_code: runs model code from the checkpoint; only for sources you trust.

    Raises:
        ModelError: nothing loadable is there, weights are missing from it, or a setting is unknown.
    """
    source = resolve(model)
    where, width, bits = _device(device), _dtype(dtype), _quantization(quantization)
    options: dict[str, Any] = {"revision": revision} if revision else {}
    options["trust_remote_code"] = trust_remote_code
    tokenizer = _load_tokenizer(source, options)
    network = _load_network(source, where, width, bits, options)
    if dtype == "auto" and quantization is None:
        network = _widened(network, where)
    return LoadedModel(network.eval(), tokenizer, str(model))


def resolve(model: str | Path) -> str:
    """The folder or hub id that a model's name stands for.

    Raises:
        ModelError: the name can only be a folder, and no model is there.
    """
    if model == TINY:
        from lag_engine import tiny

        return str(tiny.model_path())
    path = Path(model).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelError(
                "Expected a model folder with a config.json",
                f"found none in '{path}'",
                "Save the model there with `save_pretrained`, or name its folder exactly",
            )
        return str(path)
    if isinstance(model, Path) or path.exists() or _is_path_like(model):
        raise ModelError(
            "Expected a folder that holds a model",
            f"found {'a file' if path.exists() else 'nothing'} at '{path}'",
            "Check the path; a hub id has the form 'owner/name'",
        )
    return model


def _is_path_like(model: str) -> bool:
    return model.startswith((".", "~", "/")) or "\\" in model or model.count("/") > 1


def _load_tokenizer(source: str, options: dict[str, Any]) -> PreTrainedTokenizerBase:
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(source, **options)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise _not_loadable("tokenizer", source, error) from error
    return tokenizer


def _load_network(
    source: str,
    device: torch.device,
    dtype: torch.dtype | str,
    quantization: BitsAndBytesConfig | None,
    options: dict[str, Any],
) -> PreTrainedModel:
    if quantization is not None:
        options = {**options, "quantization_config": quantization, "device_map": {"": str(device)}}
    loader: Any = AutoModelForCausalLM
    try:
        network, info = loader.from_pretrained(
            source, dtype=dtype, output_loading_info=True, **options
        )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        raise _not_loadable("model", source, error) from error
    missing = sorted(info["missing_keys"])
    if missing:
        raise ModelError(
            "Expected a checkpoint with every weight of the model",
            f"'{source}' lacks {len(missing)}, among them '{missing[0]}'",
            "Download or save it again; a model with random weights is never used",
        )
    model: PreTrainedModel = network if quantization is not None else network.to(device)
    return model


def _widened(network: PreTrainedModel, device: torch.device) -> PreTrainedModel:
    is_small = sum(p.numel() for p in network.parameters()) < SMALL_MODEL_PARAMETERS
    if device.type == "cpu" and network.dtype in HALF and is_small:
        return cast("PreTrainedModel", network.float())
    return network


def _device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ModelError(
            "Expected a device like 'cpu', 'cuda' or 'cuda:1'",
            f"found device={device!r}",
            "Pass device='auto' to have one chosen",
        ) from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ModelError(
            "Expected a CUDA device, as device='cuda' asks",
            "torch finds none on this machine",
            "Pass device='cpu' or 'auto', or install a CUDA build of torch",
        )
    return chosen


def _dtype(dtype: Dtype) -> torch.dtype | str:
    if dtype == "auto" or isinstance(dtype, torch.dtype):
        return dtype
    if dtype in DTYPES:
        return DTYPES[dtype]
    raise ModelError(
        f"Expected a dtype among auto, {', '.join(DTYPES)}",
        f"found dtype={dtype!r}",
        "Choose one, or pass a torch dtype",
    )


def _quantization(quantization: str | None) -> BitsAndBytesConfig | None:
    if quantization is None:
        return None
    if quantization not in ("4bit", "8bit"):
        raise ModelError(
            "Expected quantization to be '4bit', '8bit' or None",
            f"found quantization={quantization!r}",
            "Choose one of these",
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ModelError(
            f"Expected bitsandbytes, which quantization='{quantization}' needs",
            "it is not installed",
            "Run `pip install bitsandbytes`, or leave quantization out",
        )
    is_4bit = quantization == "4bit"
    return BitsAndBytesConfig(load_in_4bit=is_4bit, load_in_8bit=not is_4bit)


def _not_loadable(what: str, source: str, error: Exception) -> ModelError:
    is_folder = Path(source).is_dir()
    is_offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}
    action = "Check the id and the network; with HF_HUB_OFFLINE=1 the hub is not waited for"
    if is_folder:
        action = "Check the files of the folder"
    elif difflib.get_close_matches(source, [TINY]):
        action = f"Did you mean '{TINY}', the model that ships with the package?"
    elif is_offline:
        action = "Unset HF_HUB_OFFLINE or download the model first, or pass a model folder"
    first_line = str(error).strip().splitlines()[0] if str(error).strip() else ""
    return ModelError(
        f"Expected a {what} in the {'folder' if is_folder else 'hub repository'} '{source}'",
        f"found {type(error).__name__}: {first_line}",
        action,
    )
