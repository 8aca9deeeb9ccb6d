"""Adapters made during requests: held in memory, under names that say their content (DyPRAG)."""

from __future__ import annotations

import hashlib
from threading import Lock
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from lag_engine.adapters.peft_adapter import LoraModule, PeftAdapter, check_adapter
from lag_engine.adapters.segments import memory_of
from lag_engine.adapters.stack import ModuleShape
from lag_engine.errors import AdapterNotFoundError, PlanError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LIMIT_BYTES = 1 << 30


class GeneratedAdapters:
    """The generated adapters that plans may name; safe to share between threads.

    A name carries a hash of the factors, so that equal names always mean equal adapters, whoever
    registers them and when.

    Args:
        limit_bytes: the most that all factors together may take.
    """

    def __init__(self, limit_bytes: int = LIMIT_BYTES) -> None:
        self._limit = limit_bytes
        self._held: dict[str, PeftAdapter] = {}
        self._uses: dict[str, int] = {}
        self._lock = Lock()

    @property
    def modules(self) -> dict[str, ModuleShape]:
        """The modules that any of them updates, with their widths."""
        with self._lock:
            return {
                module: ModuleShape(part.lora_A.shape[1], part.lora_B.shape[0])
                for adapter in self._held.values()
                for module, part in adapter.modules.items()
            }

    def add(self, adapters: Mapping[str, PeftAdapter]) -> tuple[str, ...]:
        """Holds adapters until `release`; returns the names to ask for them, in their order.

        Raises:
            AdapterFormatError: factors do not fit together or are not finite.
            PlanError: all that is held would take more than the limit.
        """
        for adapter in adapters.values():
            check_adapter(adapter)
        named = {f"{name}#{_hash(adapter)}": adapter for name, adapter in adapters.items()}
        with self._lock:
            held = {**self._held, **named}
            n_bytes = sum(map(_n_bytes, held.values()))
            if n_bytes > self._limit:
                raise PlanError(
                    f"Expected generated adapters of at most {self._limit:,} bytes at one time",
                    f"Found {n_bytes:,}, of {len(held)} adapters",
                    "Use fewer passages for each question, or answer fewer questions at once",
                )
            self._held = held
            for name in named:
                self._uses[name] = self._uses.get(name, 0) + 1
        return tuple(named)

    def release(self, names: Sequence[str]) -> None:
        """Lets go of adapters that `add` returned, unless somebody else added them too."""
        with self._lock:
            for name in names:
                self._uses[name] -= 1
                if not self._uses[name]:
                    del self._uses[name], self._held[name]

    def find(self, names: Sequence[str]) -> dict[str, PeftAdapter]:
        """Returns adapters by name; they stay usable after their release.

        Raises:
            AdapterNotFoundError: one is not held.
        """
        with self._lock:
            missing = [name for name in names if name not in self._held]
            if missing:
                raise AdapterNotFoundError(
                    "Expected generated adapters that are held in memory",
                    f"Found no {', '.join(map(repr, missing[:5]))} among {len(self._held)}",
                    "Ask inside `with engine.generated(...) as names`, by the names it gives",
                )
            return {name: self._held[name] for name in names}


class GeneratedStack:
    """One module's factors of a few generated adapters, zero-padded to the highest rank.

    They are pinned and never routed to, so their spectral form is not computed.

    Attributes:
        names: the adapter of each row; K of them.
        arrow: (K, D_in); zeros.
        singular: (K, R); zeros.
    """

    def __init__(self, parts: Mapping[str, LoraModule]) -> None:
        self.names = tuple(parts)
        rank = max(len(part.lora_A) for part in parts.values())
        self._A = torch.stack([_padded(part.lora_A, rank) for part in parts.values()])
        self._B = torch.stack([_padded(_scaled(part), rank) for part in parts.values()])
        self.arrow = torch.zeros_like(self._A[:, 0])
        self.singular = torch.zeros_like(self._A[:, :, 0])

    def A(self, rows: Tensor) -> Tensor:
        """Returns lora_A of these rows; (*rows.shape, R, D_in)."""
        return self._A[rows]

    def B(self, rows: Tensor) -> Tensor:
        """Returns lora_B of these rows, transposed and scaled; (*rows.shape, R, D_out)."""
        return self._B[rows]


def stack_of(adapters: Mapping[str, PeftAdapter], module: str) -> GeneratedStack | None:
    """Returns the module's factors of the adapters that update it; None where none does."""
    parts = {n: a.modules[module] for n, a in adapters.items() if module in a.modules}
    return GeneratedStack(parts) if parts else None


def _scaled(part: LoraModule) -> Tensor:
    return part.scaling * _wide(part.lora_B).mT


def _padded(rows: Tensor, rank: int) -> Tensor:
    return functional.pad(_wide(rows), (0, 0, 0, rank - len(rows)))


def _wide(factor: Tensor) -> Tensor:
    """On the CPU, in the dtype that products are summed in."""
    dtype = torch.float64 if factor.dtype == torch.float64 else torch.float32
    return factor.detach().to("cpu", dtype)


def _hash(adapter: PeftAdapter) -> str:
    digest = hashlib.sha256()
    for module, part in sorted(adapter.modules.items()):
        digest.update(f"{module} {part.scaling!r} {part.lora_A.dtype}\n".encode())
        digest.update(memory_of(part.lora_A))
        digest.update(memory_of(part.lora_B))
    return digest.hexdigest()[:12]


def _n_bytes(adapter: PeftAdapter) -> int:
    return sum(part.lora_A.nbytes + part.lora_B.nbytes for part in adapter.modules.values())
