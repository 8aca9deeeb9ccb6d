"""What a model's files say about it before its weights are loaded."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TINY = "lag-tiny"
TEMPLATE_FILE = "chat_template.jinja"


@dataclass(frozen=True)
class ModelFiles:
    """The folder of a model that is on this machine.

    Args:
        folder: holds the configuration, the tokenizer and the weights.
    """

    folder: Path

    @property
    def context_length(self) -> int | None:
        """The most positions the model has; None if its configuration does not say."""
        config = self._json("config.json")
        text_config = config.get("text_config") or config
        length = text_config.get("max_position_embeddings")
        return int(length) if length else None

    @property
    def chat_template(self) -> str:
        """The chat template's source, of all variants together; empty if there is none."""
        path = self.folder / TEMPLATE_FILE
        if path.is_file():
            return path.read_text(encoding="utf-8")
        found = self._json("tokenizer_config.json").get("chat_template") or ""
        return found if isinstance(found, str) else "".join(t["template"] for t in found)

    @property
    def fingerprint(self) -> str:
        """Names this state of the files: the hub's commit, or a digest of names, sizes, times."""
        if self.folder.parent.name == "snapshots":
            return self.folder.name
        digest = hashlib.sha256()
        for path in sorted(self.folder.iterdir()):
            if path.is_file():
                stat = path.stat()
                digest.update(f"{path.name}:{stat.st_size}:{stat.st_mtime_ns};".encode())
        return digest.hexdigest()[:16]

    def _json(self, name: str) -> dict[str, Any]:
        path = self.folder / name
        read: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
        return read


def find_model_files(model: str, revision: str | None = None) -> ModelFiles | None:
    """The files of a model that a name stands for, or None where they are not on this machine.

    Args:
        model: "lag-tiny", a folder or a hub id; of a hub id only the local cache is asked.
        revision: of the hub id.
    """
    if model == TINY:
        from lag_engine import tiny

        return ModelFiles(Path(tiny.model_path()))
    if Path(model).is_dir():
        return ModelFiles(Path(model))
    return _from_hub_cache(model, revision)


def _from_hub_cache(model: str, revision: str | None) -> ModelFiles | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        config = try_to_load_from_cache(model, "config.json", revision=revision)
    except HFValidationError:  # a registered engine's name, or a folder that is not there yet
        return None
    return ModelFiles(Path(config).parent) if isinstance(config, str) else None
