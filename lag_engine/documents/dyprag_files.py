"""A translator on disk: its weights, and what it was made for."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from lag_engine.adapters import ModuleShape
from lag_engine.documents.dyprag_translator import Translator, TranslatorShape
from lag_engine.errors import AdapterFormatError

WEIGHTS, CONFIG = "translator.safetensors", "translator.json"
_FORMAT = 1


def save_translator(translator: Translator, folder: str | Path, *, made_of: str = "") -> None:
    """Writes the translator into a folder, in place of one that is there.

    The config is written last and each file appears whole, so that a folder with a config is
    complete; where the two are of different translators, `load_translator` says so.

    Args:
        translator: To write.
        folder: Made if need be.
        made_of: What it was trained on, for `made_of` to tell again.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.contiguous() for name, tensor in translator.state_dict().items()}
    told = {"format": _FORMAT, "made_of": made_of, **asdict(translator.shape)}
    told["modules"] = {module: list(shape) for module, shape in translator.shape.modules.items()}
    (folder / CONFIG).unlink(missing_ok=True)
    save_file(tensors, folder / f"{WEIGHTS}.partial", metadata={"format": "pt"})
    (folder / f"{WEIGHTS}.partial").replace(folder / WEIGHTS)
    (folder / f"{CONFIG}.partial").write_text(json.dumps(told, indent=1) + "\n")
    (folder / f"{CONFIG}.partial").replace(folder / CONFIG)


def load_translator(
    folder: str | Path, model: nn.Module, *, allow_other_base: bool = False
) -> Translator:
    """Reads a translator for a model, onto the model's device.

    Args:
        folder: Where `save_translator` wrote it.
        model: The base model.
        allow_other_base: Accept a model of another name, if modules and widths are the same.

    Raises:
        AdapterFormatError: There is none in the folder, or its files cannot be read.
        AdapterMismatchError: It was made for another base model.
    """
    folder = Path(folder)
    shape = _read_shape(folder)
    shape.check(model, allow_other_base=allow_other_base)
    translator = Translator(shape)
    try:
        translator.load_state_dict(load_file(folder / WEIGHTS))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise _unreadable(folder / WEIGHTS, " ".join(str(error).split())) from error
    if not all(bool(torch.isfinite(tensor).all()) for tensor in translator.state_dict().values()):
        raise _unreadable(folder / WEIGHTS, "values that are not finite")
    return translator.to(next(model.parameters()).device).eval()


def made_of(folder: str | Path) -> str | None:
    """What the translator of a folder says it was trained on; None if there is none.

    Raises:
        AdapterFormatError: Its config cannot be read.
    """
    path = Path(folder) / CONFIG
    try:
        return str(json.loads(path.read_text())["made_of"]) if path.exists() else None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _unreadable(path, str(error)) from error


def _read_shape(folder: Path) -> TranslatorShape:
    try:
        told = json.loads((folder / CONFIG).read_text())
        if told.pop("format") != _FORMAT:
            raise _unreadable(folder / CONFIG, "the format of another version")
        told.pop("made_of")
        modules = {module: ModuleShape(*shape) for module, shape in told.pop("modules").items()}
        return TranslatorShape(modules=modules, **told)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unreadable(folder / CONFIG, str(error)) from error


def _unreadable(path: Path, found: str) -> AdapterFormatError:
    return AdapterFormatError(
        f"Expected a translator at {path}",
        f"found: {found}",
        "train one with `lag encode --method dyprag`, or copy it again",
    )
