"""What a results file tells of how its answers were made: library, machine and versions."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lag_engine.adapters.library import AdapterLibrary

_PACKAGES = ("lag-integrations", "torch", "transformers", "peft", "bm25s", "numpy")


def library_account(library: AdapterLibrary | None) -> dict[str, Any] | None:
    """What a library holds, by kind, and a hash of all of it."""
    if library is None:
        return None
    kinds: dict[str, dict[str, int]] = {}
    contents = hashlib.sha256()
    for info in library.list():
        held = kinds.setdefault(info.kind, {"adapters": 0, "bytes": 0})
        held["adapters"] += 1
        held["bytes"] += info.n_bytes
        contents.update(f"{info.name} {info.sha256}\n".encode())
    return {"fingerprint": contents.hexdigest()[:16], "kinds": kinds}


def session() -> dict[str, Any]:
    """When, on what machine and with what versions answers are made."""
    import torch

    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "processor": processor(),
            "cores": len(os.sched_getaffinity(0)),
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
        "versions": {"python": platform.python_version(), **dict(_versions())},
    }


def processor() -> str:
    """The name of the machine's processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _versions() -> Iterator[tuple[str, str]]:
    for package in _PACKAGES:
        try:
            yield package, version(package)
        except PackageNotFoundError:
            continue
