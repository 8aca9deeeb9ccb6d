"""A folder of JSON files by key, each there whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


class JsonCache:
    """Keeps what was costly to make.

    Args:
        folder: Made on the first write; None keeps nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def read(self, key: str) -> Any | None:
        """What was written under the key; None if nothing was."""
        if self._folder is None:
            return None
        try:
            return json.loads(self._path(self._folder, key).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None

    def write(self, key: str, value: object) -> None:
        """Keeps a value that JSON can hold."""
        if self._folder is None:
            return
        path = self._path(self._folder, key)
        path.parent.mkdir(parents=True, exist_ok=True)
        # One name for each process: two that write one key must not mix their halves.
        partial = path.with_suffix(f".{os.getpid()}.partial")
        partial.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
        partial.replace(path)

    @staticmethod
    def _path(folder: Path, key: str) -> Path:
        return folder / f"{key}.json"
