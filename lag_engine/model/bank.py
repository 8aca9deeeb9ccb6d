"""The library as a running model sees it: one stack for each module and kind, on the right device.

Nothing is read before it is used: a stack's arrow vectors when its module first routes, factors
when they are gathered. `refresh` follows a library that changes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol, get_args

from lag_engine.errors import AdapterNotFoundError
from lag_engine.model.generated import GeneratedAdapters
from lag_engine.model.resident import NamedStack, ResidentStack
from lag_engine.routing import Slot

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    import torch

Kind = Slot | Literal["latent"]
"""The kinds of stored adapters: those of either slot, and those that mixtures share."""

_KINDS: tuple[Kind, ...] = (*get_args(Slot), "latent")


class Shape(Protocol):
    """The two widths of a linear module."""

    @property
    def d_in(self) -> int:
        """Width of its input."""
        ...

    @property
    def d_out(self) -> int:
        """Width of its output."""
        ...


class _Info(Protocol):
    @property
    def name(self) -> str: ...


class Snapshot(Protocol):
    """What the bank reads: the library at one moment, whatever writers do meanwhile."""

    @property
    def generation(self) -> int:
        """The library's generation at that moment."""
        ...

    @property
    def mixtures(self) -> Collection[str]:
        """The names of the passages' mixtures."""
        ...

    def list(self, kind: Kind | None = None, /) -> Iterable[_Info]:
        """Returns the adapters of one kind."""
        ...

    def modules(self, kind: Kind | None = None, /) -> Mapping[str, Shape]:
        """Returns the target modules of one kind, or of all."""
        ...

    def stack(self, module: str, kind: Kind, /) -> NamedStack:
        """Returns one module's adapters of one kind."""
        ...

    def mixture(self, name: str, /) -> Mapping[str, Mapping[str, float]]:
        """Returns a mixture's weights: module to latent adapter to weight."""
        ...

    def prefetch(self, names: Iterable[str], /) -> None:
        """Has the factors of these adapters read from disk, without waiting for them."""
        ...


class Library(Protocol):
    """What the bank asks of an adapter library."""

    @property
    def generation(self) -> int:
        """A number that changes with every committed change."""
        ...

    def snapshot(self) -> Snapshot:
        """Returns the library as it is now."""
        ...


class AdapterBank:
    """The stacks of a library, ready for the modules of one model.

    Args:
        library: an open adapter library, or None for none: then nothing stored can be applied.

    Attributes:
        generated: adapters that were made during requests, beside the library's.
    """

    def __init__(self, library: Library | None) -> None:
        self._library = library
        self._stacks: dict[tuple[str, Kind, torch.device], ResidentStack | None] = {}
        self.generated = GeneratedAdapters()
        self._read()

    @property
    def generation(self) -> int:
        """The library's generation the bank shows."""
        return self._generation

    @property
    def is_current(self) -> bool:
        """Whether the library is still at the generation the bank shows."""
        return self._library is None or self._library.generation == self._generation

    @property
    def modules(self) -> Mapping[str, Shape]:
        """The modules any adapter updates, with their widths; generated ones included."""
        return {**self.generated.modules, **self._modules}

    @property
    def mixtures(self) -> Collection[str]:
        """The names of the passages' mixtures."""
        return () if self._snapshot is None else self._snapshot.mixtures

    def names(self, kind: Kind) -> frozenset[str]:
        """Returns the adapters of a kind."""
        return self._names[kind]

    def mixture(self, name: str) -> Mapping[str, Mapping[str, float]]:
        """Returns a mixture's weights: module to latent adapter to weight."""
        assert self._snapshot is not None
        return self._snapshot.mixture(name)

    def refresh(self) -> bool:
        """Follows the library; returns whether it had changed. Not during a forward pass."""
        if self.is_current:
            return False
        self._read()
        return True

    def stack(self, module: str, kind: Kind, device: torch.device) -> ResidentStack | None:
        """Returns a module's adapters of one kind on a device, or None where there are none."""
        key = (module, kind, device)
        if key not in self._stacks:
            self._stacks[key] = self._open(*key)
        return self._stacks[key]

    def prefetch(self, names: Iterable[str]) -> None:
        """Has the factors of these adapters read from disk, without waiting for them."""
        if self._snapshot is not None:
            self._snapshot.prefetch(names)

    def close(self) -> None:
        """Lets go of the library and of all that was read from it."""
        self._library = None
        self._read()

    def require(self, names: Sequence[str]) -> None:
        """Checks that every name is in the library.

        Raises:
            AdapterNotFoundError: some are not; the message lists near matches.
        """
        known = self._names["task"] | self._names["knowledge"]
        unknown = set(names) - known
        if unknown:
            raise AdapterNotFoundError.of(unknown, known)

    def _open(self, module: str, kind: Kind, device: torch.device) -> ResidentStack | None:
        if self._snapshot is None or module not in self._modules_of[kind]:
            return None
        return ResidentStack(self._snapshot.stack(module, kind), device)

    def _read(self) -> None:
        self._stacks.clear()
        shot = self._snapshot = None if self._library is None else self._library.snapshot()
        self._generation = 0 if shot is None else shot.generation
        self._names: dict[Kind, frozenset[str]] = {
            kind: frozenset(() if shot is None else (info.name for info in shot.list(kind)))
            for kind in _KINDS
        }
        self._modules_of: dict[Kind, Mapping[str, Shape]] = {
            kind: {} if shot is None else shot.modules(kind) for kind in _KINDS
        }
        self._modules = {name: s for kind in _KINDS for name, s in self._modules_of[kind].items()}
