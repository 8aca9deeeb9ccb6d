"""OpenLibrary: a library's folder as readers see it, from opening to closing."""

from __future__ import annotations

import weakref
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

from lag_engine.adapters.base_model import BaseModel
from lag_engine.adapters.held_pages import HeldPages
from lag_engine.adapters.info import AdapterInfo, EntryKind
from lag_engine.adapters.peft_adapter import PeftAdapter
from lag_engine.adapters.peft_format import write_peft
from lag_engine.adapters.snapshot import AdapterInfos, LibrarySnapshot
from lag_engine.adapters.stack import AdapterKind, ModuleShape, ModuleStack
from lag_engine.adapters.store import Store, VerifyReport
from lag_engine.errors import LibraryError

DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
"""What factors and arrow vectors can be stored in."""


class OpenLibrary:
    """What an open library answers; `AdapterLibrary` changes it too."""

    def __init__(
        self,
        path: Path,
        *,
        read_only: bool,
        map_factors: bool = True,
        factor_cache_bytes: int | None = None,
    ) -> None:
        pages = None if factor_cache_bytes is None else HeldPages(factor_cache_bytes)
        self.path = path
        self.is_read_only = read_only
        held = ExitStack()
        self._close = weakref.finalize(self, held.close)
        self._store = Store(
            path, read_only=read_only, held=held, map_factors=map_factors, pages=pages
        )
        self.dtype = DTYPES[self._store.manifest.dtype]
        self._base = self._store.manifest.base()

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        read_only: bool = False,
        map_factors: bool = True,
        factor_cache_bytes: int | None = None,
    ) -> Self:
        """Opens a library.

        Factors are read from mapped files when they are used, and the system takes their memory
        back when it is short: a library may be larger than memory. Then `factor_cache_bytes` makes
        tokens fast: what they need is announced, and read from disk without its neighbours.

        Args:
            path: its folder.
            read_only: many may read at once; without it, this is the one writer until `close`.
            map_factors: False copies what is used and holds nothing more: this process's memory
                stays at the arrow vectors, at some cost in time (the compiled operator reads
                mapped factors only).
            factor_cache_bytes: the most that this process keeps of the mapped files, factors and
                arrow vectors, from one module's turn to the next (Linux); what it lets go stays
                in the system's cache while that has room. None leaves it to the system.

        Raises:
            LibraryError: there is no library, another version of this package wrote it, or the
                bytes are no number above zero.
            LibraryLockedError: another writer has it open; the message says who.
            LibraryCorruptError: its manifest cannot be read.
        """
        return cls(
            Path(path),
            read_only=read_only,
            map_factors=map_factors,
            factor_cache_bytes=factor_cache_bytes,
        )

    def close(self) -> None:
        """Lets go of files and lock; snapshots and stacks in use stay valid."""
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self.snapshot())

    def __contains__(self, name: object) -> bool:
        return name in self.snapshot()

    def __repr__(self) -> str:
        state = "" if self._close.alive else ", closed"
        return f"{type(self).__name__}({str(self.path)!r}, base_model={self.base_model!r}{state})"

    @property
    def base_model(self) -> str | None:
        """The base model's name, as given when the library was made."""
        return self._base.name

    @property
    def base(self) -> BaseModel:
        """Name, module widths and shape fingerprint of the base model."""
        return self._base

    @property
    def generation(self) -> int:
        """The number of committed changes so far, also those of other processes."""
        self._require_open()
        return self._store.manifest.generation

    @property
    def fingerprint(self) -> str:
        """A hash of what is in it, in order: names, kinds, documents, factors, mixtures."""
        return self.snapshot().fingerprint

    def snapshot(self) -> LibrarySnapshot:
        """Returns the newest committed state; cheap as long as nothing changed."""
        self._require_open()
        return self._store.snapshot()

    def list(self, kind: EntryKind | None = None) -> AdapterInfos:
        """Returns the adapters and mixtures in joining order."""
        return self.snapshot().list(kind)

    def info(self, name: str) -> AdapterInfo:
        """Returns one adapter or mixture; raises AdapterNotFoundError."""
        return self.snapshot().info(name)

    def modules(self, kind: AdapterKind | None = None) -> dict[str, ModuleShape]:
        """Returns the modules that at least one adapter updates, with their widths."""
        return self.snapshot().modules(kind)

    def stack(self, module: str, kind: AdapterKind) -> ModuleStack:
        """Returns one module's adapters of one kind, stacked; see `LibrarySnapshot.stack`."""
        return self.snapshot().stack(module, kind)

    def verify(self) -> VerifyReport:
        """Reads everything and compares it with the manifest's hashes.

        Raises:
            LibraryCorruptError: something differs; the message names the segments and adapters.
        """
        self._require_open()
        return self._store.verify()

    def export(self, name: str, folder: str | Path) -> None:
        """Writes an adapter or a mixture as a PEFT folder, which PEFT loads with equal output.

        Raises:
            AdapterNotFoundError: there is none of that name.
            AdapterFormatError: the folder holds an adapter already.
        """
        snapshot = self.snapshot()
        info, modules = snapshot.info(name), snapshot.lora(name)
        config = {
            "peft_type": "LORA",
            "fan_in_fan_out": self._base.transposed.issuperset(modules),
        }
        base_model = info.base_model or self.base_model
        write_peft(folder, PeftAdapter(modules, base_model, config, name))

    def _require_open(self) -> None:
        if not self._close.alive:
            raise LibraryError(
                "Expected an open library", f"found {self.path} closed", "open it again"
            )
