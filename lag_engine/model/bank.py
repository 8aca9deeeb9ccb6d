"""The library as a running model sees it: one stack for each module and kind, on the right device.

Nothing is read before it is used: a stack's arrow vectors when its module first routes, factors
when they are gathered. `refresh` follows a library that changes.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Literal, Protocol, get_args

import torch
from torch import Tensor

from lag_engine.errors import AdapterNotFoundError
from lag_engine.model.generated import GeneratedAdapters
from lag_engine.model.kernels.stacks import CompiledStack, is_readable
from lag_engine.routing import Slot, Stack

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from lag_engine.adapters.stack import Places

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


class NamedStack(Stack, Protocol):
    """A stack that knows its adapters' names, as the library hands it out."""

    @property
    def names(self) -> tuple[str, ...]:
        """The adapter of each row."""
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


class ResidentStack:
    """One module's stack on the module's device.

    The arrow vectors and singular values stay there in float32, as they are read for every token,
    or, where the compiled operator reads them, as they are stored; factors are gathered from the
    library's memory-mapped blocks and copied, a few rows at a time.

    Attributes:
        names: the adapter of each row.
        row_of: the row of each adapter.
        singular: (N, R).
        device: the module's.
        dtype: of the arrow vectors there.
    """

    def __init__(self, stack: NamedStack, device: torch.device) -> None:
        self.names = tuple(stack.names)
        self.row_of = {name: row for row, name in enumerate(self.names)}
        self.singular = _resident(stack.singular, device)
        self.device = device
        self.dtype = _wide(stack.arrow.dtype)
        self._stack = stack

    @cached_property
    def arrow(self) -> Tensor:
        """Arrow vectors; (N, D_in), contiguous."""
        return _resident(self._stack.arrow, self.device)

    @cached_property
    def compiled(self) -> CompiledStack | None:
        """The same stack for the compiled operator; None where that cannot read it in place."""
        places: Places | None = getattr(self._stack, "places", None)
        if places is None or self.device.type != "cpu" or not is_readable(self._stack, places):
            return None
        return CompiledStack(self._stack, places)

    def A(self, rows: Tensor) -> Tensor:
        """Returns A* of these rows; (*rows.shape, R, D_in)."""
        return self._stack.A(rows.cpu()).to(self.device)

    def B(self, rows: Tensor) -> Tensor:
        """Returns B* of these rows; (*rows.shape, R, D_out)."""
        return self._stack.B(rows.cpu()).to(self.device)

    def gathered(self, rows: Tensor) -> Stack:
        """Returns a few rows, factors included, as a stack of their own; rows is (K,)."""
        arrow = _resident(self._stack.arrow[rows.cpu()], self.device)
        return _Gathered(arrow, self.singular[rows], self.A(rows), self.B(rows))


class _Gathered:
    def __init__(self, arrow: Tensor, singular: Tensor, A: Tensor, B: Tensor) -> None:
        self.arrow, self.singular = arrow, singular
        self._A, self._B = A, B

    def A(self, rows: Tensor) -> Tensor:
        return self._A[rows]

    def B(self, rows: Tensor) -> Tensor:
        return self._B[rows]


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


def _resident(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor.to(device, _wide(tensor.dtype)).contiguous()


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32
