"""Finds an adapter: a local folder as it is, a hub id through the Hugging Face cache."""

from __future__ import annotations

import os
import re
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from lag_engine.adapters.peft_config import CONFIG_NAME
from lag_engine.adapters.weights import PICKLE_NAME, SAFETENSORS_NAME
from lag_engine.errors import AdapterFormatError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def locate(source: str | Path, *, revision: str | None, allow_pickle: bool) -> Path:
    """Returns a local folder that holds the adapter; a hub id is downloaded once, then cached.

    A folder that exists wins over a hub id of the same spelling. `HF_HUB_OFFLINE` is honoured:
    what the cache holds is found, nothing else.

    Raises:
        AdapterFormatError: there is neither such a folder nor such a repository, or it cannot be
            reached.
    """
    folder = Path(source).expanduser()
    if source != "" and folder.is_dir():
        return folder
    if isinstance(source, Path) or folder.exists() or not _HUB_ID.fullmatch(source):
        found = "a file" if folder.exists() else "nothing there"
        raise AdapterFormatError(
            f"Expected an adapter folder or a hub id (owner/name) at {os.fspath(source)!r}",
            f"found {found}",
            "pass the folder that holds adapter_config.json",
        )
    return _download(source, revision=revision, allow_pickle=allow_pickle)


def _download(hub_id: str, *, revision: str | None, allow_pickle: bool) -> Path:
    patterns = [CONFIG_NAME, SAFETENSORS_NAME, *([PICKLE_NAME] if allow_pickle else [])]
    wanted = f"Expected the adapter {hub_id!r} on the hub or in its local cache"
    try:
        folder = huggingface_hub.snapshot_download(
            hub_id, revision=revision, allow_patterns=patterns
        )
    except GatedRepoError as error:
        action = "accept its terms on the hub and log in with `hf auth login`"
        raise AdapterFormatError(wanted, "the repository is gated", action) from error
    except RepositoryNotFoundError as error:
        action = "check the spelling; a private repository needs `hf auth login`"
        raise AdapterFormatError(wanted, "no such repository", action) from error
    except RevisionNotFoundError as error:
        action = "name a branch, tag or commit that exists"
        raise AdapterFormatError(wanted, f"no revision {revision!r}", action) from error
    except HFValidationError as error:
        raise AdapterFormatError(wanted, str(error), "check the spelling") from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, HfHubHTTPError, OSError) as error:
        action = (
            "unset HF_HUB_OFFLINE and check the connection, or copy the adapter's folder here and "
            "pass its path (a local folder was looked for first)"
        )
        found = "it is not in the cache and the hub cannot be reached"
        raise AdapterFormatError(wanted, found, action) from error
    return Path(folder)


def short_name(source: str | Path) -> str:
    """Returns the last part of a path or hub id; a hub cache's snapshot gives its repository."""
    parts = [part for part in os.fspath(source).replace("\\", "/").split("/") if part]
    for part in reversed(parts):
        if part.startswith("models--"):
            return part.rpartition("--")[2]
    return parts[-1] if parts and parts[-1] not in (".", "..") else ""
