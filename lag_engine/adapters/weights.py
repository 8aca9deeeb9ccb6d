"""Reads the tensors of an adapter folder; knows file formats, not what the tensors mean."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from lag_engine.errors import AdapterFormatError

SAFETENSORS_NAME = "adapter_model.safetensors"
PICKLE_NAME = "adapter_model.bin"

_LFS_MARK = b"version https://git-lfs.github.com/spec/"


def read_weights(folder: Path, *, allow_pickle: bool) -> dict[str, Tensor]:
    """Returns the adapter's tensors by their name in the file; finite, floating point, on CPU.

    Raises:
        AdapterFormatError: no file, a Git-LFS pointer, truncated, corrupt, NaN or infinite values,
            or only a pickle although that was not allowed.
    """
    path = _find(folder, allow_pickle=allow_pickle)
    refuse_lfs_pointer(path)
    tensors = _read_pickle(path) if path.suffix == ".bin" else _read_safetensors(path)
    check_values(tensors, path)
    return tensors


def refuse_lfs_pointer(path: Path) -> None:
    """Raises AdapterFormatError if the file is what Git leaves when LFS did not run."""
    with path.open("rb") as file:
        is_pointer = file.read(len(_LFS_MARK)) == _LFS_MARK
    if is_pointer:
        raise AdapterFormatError(
            f"Expected the contents of {path}",
            "found a Git-LFS pointer: the repository was cloned without its large files",
            "run `git lfs pull` in that repository, or download it through the hub",
        )


def _find(folder: Path, *, allow_pickle: bool) -> Path:
    if (folder / SAFETENSORS_NAME).is_file():
        return folder / SAFETENSORS_NAME
    path = folder / PICKLE_NAME
    if not path.is_file():
        raise AdapterFormatError(
            f"Expected {SAFETENSORS_NAME} beside the config",
            f"found no such file in {folder}",
            "save the adapter again with PEFT's save_pretrained",
        )
    if not allow_pickle:
        raise AdapterFormatError(
            f"Expected {SAFETENSORS_NAME}",
            f"found only {PICKLE_NAME}, a pickle, in {folder}",
            "convert it to safetensors, or pass allow_pickle=True (read with weights_only=True)",
        )
    return path


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    content = path.read_bytes()
    _refuse_truncated(path, content)
    try:
        tensors: dict[str, Tensor] = load(content)
    except SafetensorError as error:
        raise _corrupt(path, str(error)) from error
    return tensors


def _refuse_truncated(path: Path, content: bytes) -> None:
    """A truncated file says so by itself: the header knows how long the file must be."""
    header_end = 8 + int.from_bytes(content[:8], "little")
    expected = header_end
    if 8 < header_end <= len(content):
        expected += _data_length(path, content[8:header_end])
    if len(content) < max(expected, 9):
        raise AdapterFormatError(
            f"Expected {path} to hold {expected:,} bytes, as its header says",
            f"found {len(content):,}: the file is truncated (or no safetensors file at all)",
            "copy or download it again",
        )


def _data_length(path: Path, header: bytes) -> int:
    try:
        entries = json.loads(header)
        ends = [e["data_offsets"][1] for name, e in entries.items() if name != "__metadata__"]
        return int(max(ends, default=0))
    except (ValueError, TypeError, AttributeError, LookupError) as error:
        raise _corrupt(path, f"a header that cannot be read ({error})") from error


def _read_pickle(path: Path) -> dict[str, Tensor]:
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise _corrupt(path, str(error).partition("\n")[0]) from error
    if not isinstance(tensors, dict):
        raise _corrupt(path, f"a pickled {type(tensors).__name__} instead of named tensors")
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise _corrupt(path, f"{name!r} holds a {type(tensor).__name__} instead of a tensor")
    return {str(name): tensor for name, tensor in tensors.items()}


def _corrupt(path: Path, found: str) -> AdapterFormatError:
    return AdapterFormatError(
        f"Expected readable weights in {path}", f"found: {found}", "copy or download it again"
    )


def check_values(tensors: Mapping[str, Tensor], source: str | Path) -> None:
    """Raises AdapterFormatError unless all tensors are floating point and finite."""
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise AdapterFormatError(
                "Expected floating point weights",
                f"found {tensor.dtype} in {name} of {source}",
                "save the adapter in float32, float16 or bfloat16",
            )
    if are_finite(tensors.values()):
        return
    for name, tensor in tensors.items():
        n_bad = tensor.numel() - int(torch.isfinite(_known(tensor)).sum())
        if n_bad:
            raise AdapterFormatError(
                "Expected finite weights",
                f"found {n_bad} NaN or infinite values in {name} of {source}",
                "the training diverged: train again, or take an earlier checkpoint",
            )


def are_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether no value is NaN or infinite."""
    values = [_known(tensor) for tensor in tensors]
    # A finite sum has finite terms, and costs a fraction of looking at each.
    sums = [part.sum().cpu() for part in values]
    if bool(torch.stack(sums).isfinite().all()):
        return True
    return all(bool(torch.isfinite(part).all()) for part in values)


def _known(tensor: Tensor) -> Tensor:
    """Not every operation knows the one-byte floats."""
    return tensor.float() if tensor.itemsize == 1 else tensor
