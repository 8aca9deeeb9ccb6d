"""One engine per model and library in a process, loaded when it is first used.

Frameworks build their model objects often and cheaply: a configured LangChain model is constructed
anew at every call. So the objects hold an `EngineKey`, and the weights live here.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from lag_engine import ModelError
from lag_integrations.model_files import TINY, find_model_files

if TYPE_CHECKING:
    from lag_engine import LAGEngine

_engines: dict[EngineKey, LAGEngine] = {}
_built_by_hand: set[EngineKey] = set()
_locks: dict[EngineKey, threading.Lock] = {}
_registry_lock = threading.Lock()


@dataclass(frozen=True)
class EngineKey:
    """What makes two requests share one engine.

    Args:
        model: "lag-tiny", a model folder, a hub id, or the name of a registered engine.
        revision: of a hub id.
        dtype: "auto" or a torch dtype's name.
        device: "auto" or a torch device's name.
        quantization: "4bit", "8bit" or None.
        library: the library's folder; None for the model's own default, if it has one.
        factor_cache_bytes: most that is kept of the library's files; None for no bound.
    """

    model: str
    revision: str | None = None
    dtype: str = "auto"
    device: str = "auto"
    quantization: str | None = None
    library: str | None = None
    factor_cache_bytes: int | None = None

    def for_model(self, model: str) -> EngineKey:
        """The same settings for another model; a revision belongs to one model only."""
        return self if model == self.model else replace(self, model=model, revision=None)


def get_engine(key: EngineKey) -> LAGEngine:
    """The process's engine for the key; loads it at the first call, once, whatever the threads.

    One that somebody has closed is loaded again, except one that was built by hand.

    Raises:
        LagError: the model or the library cannot be loaded.
    """
    with _registry_lock:
        lock = _locks.setdefault(key, threading.Lock())
    with lock:
        engine = loaded_engine(key)
        if engine is None:
            engine = _engines[key] = _load(key)
        return engine


def loaded_engine(key: EngineKey) -> LAGEngine | None:
    """The key's engine if it is already in memory."""
    engine = _engines.get(key)
    if engine is None or key in _built_by_hand:
        return engine
    return None if engine.is_closed else engine


def register_engine(key: EngineKey, engine: LAGEngine) -> None:
    """Makes an engine that was built by hand the key's engine.

    Raises:
        ModelError: the key already has another engine.
    """
    with _registry_lock:
        lock = _locks.setdefault(key, threading.Lock())
    with lock:
        if _engines.get(key, engine) is not engine:
            raise ModelError(
                f"Expected no engine under the name '{key.model}' yet",
                "another one is registered there",
                "Register this engine under another name, or release the first",
            )
        _engines[key] = engine
        _built_by_hand.add(key)


def release_engine(key: EngineKey) -> None:
    """Forgets and closes the key's engine; its running requests end with an error."""
    with _registry_lock:
        lock = _locks.setdefault(key, threading.Lock())
    with lock:
        engine = _engines.pop(key, None)
        _built_by_hand.discard(key)
    if engine is not None:
        engine.close()


def library_fingerprint(key: EngineKey) -> str | None:
    """The fingerprint of the key's library as it is now; loads no weights.

    None means that there is no library, or that only loading the model would tell.
    """
    engine = loaded_engine(key)
    if engine is not None:
        return None if engine.library is None else engine.library.fingerprint
    path = library_path(key)
    if path is None:
        return None
    from lag_engine import AdapterLibrary

    with AdapterLibrary.open(path, read_only=True) as library:
        return library.fingerprint


def model_fingerprint(key: EngineKey) -> str | None:
    """Names the state of the key's model files; None where they are not on this machine."""
    files = find_model_files(key.model, key.revision)
    return files.fingerprint if files else None


def library_path(key: EngineKey) -> str | None:
    """The folder of the key's library; None where there is none."""
    if key.library is not None or key.model != TINY:
        return key.library
    from lag_engine import tiny

    return str(tiny.library_path())


def _load(key: EngineKey) -> LAGEngine:
    from lag_engine import LAGEngine

    options: dict[str, Any] = {"revision": key.revision} if key.revision else {}
    return LAGEngine.from_pretrained(
        key.model,
        library=key.library,
        device=key.device,
        dtype=cast("Any", key.dtype),  # the engine checks both, with a message of its own
        quantization=cast("Any", key.quantization),
        factor_cache_bytes=key.factor_cache_bytes,
        **options,
    )
