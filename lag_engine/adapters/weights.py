"""Reads the tensors of an adapter folder; knows file formats, not what the tensors mean."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lag_engine.errors import AdapterFormatError

SAFETENSORS_NAME = "adapter_model.safetensors"
PICKLE_NAME = "adapter_model.bin"

# What safetensors files call their dtypes.
_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}

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
    """Reads the file at once; the tensors are views of what was read."""
    content = torch.from_numpy(np.fromfile(path, dtype=np.uint8))
    try:
        start, entries = _header(content)
        ends = [entry["data_offsets"][1] for entry in entries.values()]
        _refuse_truncated(path, content.shape[0], start + max(ends, default=0))
        return {name: _tensor(content[start:], **entry) for name, entry in entries.items()}
    except (ValueError, TypeError, AttributeError, LookupError, RuntimeError) as error:
        raise _corrupt(path, f"a header that cannot be read ({error})") from error


def _header(content: Tensor) -> tuple[int, dict[str, Any]]:
    """Returns where the data begin, and each tensor's entry; none where the header is cut off."""
    start = 8 + int.from_bytes(content[:8].numpy(), "little")
    if not 8 < start <= content.shape[0]:
        return start, {}
    entries: dict[str, Any] = json.loads(content[8:start].numpy().tobytes())
    return start, {name: entry for name, entry in entries.items() if name != "__metadata__"}


def _refuse_truncated(path: Path, n_bytes: int, expected: int) -> None:
    """A truncated file says so by itself: the header knows how long the file must be."""
    if n_bytes < max(expected, 9):
        raise AdapterFormatError(
            f"Expected {path} to hold {expected:,} bytes, as its header says",
            f"found {n_bytes:,}: the file is truncated (or no safetensors file at all)",
            "copy or download it again",
        )


def _tensor(data: Tensor, dtype: str, shape: list[int], data_offsets: list[int]) -> Tensor:
    """Returns one tensor; an offset that its dtype cannot be read at costs a copy."""
    kind, (start, end) = _TYPES[dtype], data_offsets
    if not 0 <= start <= end or end - start != math.prod(shape) * kind.itemsize:
        raise ValueError(f"{end - start} bytes for {shape} in {dtype}")
    raw = data[start:end]
    is_aligned = raw.data_ptr() % kind.itemsize == 0
    return (raw if is_aligned else raw.clone()).view(kind).view(shape)


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
