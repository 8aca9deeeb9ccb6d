"""A library at one moment: immutable, complete, and readable for as long as it is held."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Hashable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from threading import Lock
from typing import cast, get_args

import torch
from torch import Tensor

from lag_engine.adapters.families import Family
from lag_engine.adapters.info import AdapterInfo, EntryKind
from lag_engine.adapters.joining import hash_forms
from lag_engine.adapters.mapped import Segment
from lag_engine.adapters.mixtures import LatentTable
from lag_engine.adapters.peft_adapter import LoraModule
from lag_engine.adapters.rows import AdapterRow, Columns, Contents, Layout, MixtureRow
from lag_engine.adapters.spectral import SpectralForm
from lag_engine.adapters.stack import AdapterKind, ModuleShape, ModuleStack
from lag_engine.errors import AdapterNotFoundError, LibraryCorruptError, LibraryError

# Inside the classes that have a method `list`, the built-in cannot be named in annotations.
AdapterInfos = list[AdapterInfo]


class LibrarySnapshot:
    """Everything a library held at one generation.

    What is asked of one snapshot belongs together, whatever writers do meanwhile; the files it
    maps stay readable even after `compact` replaced them.

    Attributes:
        generation: the library's count of changes at that moment.
        segments: segment id to reader; an error in place of one that cannot be read.
        n_removed: adapters that were removed and still take room.
        mixtures: the manifest's row of each mixture, by name, in joining order.
    """

    def __init__(
        self, contents: Contents, segments: Mapping[int, Segment | LibraryCorruptError]
    ) -> None:
        self.generation = contents.generation
        self.n_removed = contents.n_removed
        self._rows = contents.adapters
        self._layouts = contents.layouts
        self.segments = segments
        self._by_name = {row.name: row for row in self._rows}
        self.mixtures = {row.name: row for row in contents.mixtures}
        self._columns: dict[AdapterKind, Columns] = {}
        self._stacks: dict[tuple[str, AdapterKind], ModuleStack] = {}
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._rows) + len(self.mixtures)

    def __contains__(self, name: object) -> bool:
        return name in self._by_name or name in self.mixtures

    @cached_property
    def fingerprint(self) -> str:
        """A hash of what is live, in order; equal for equal content, in any library."""
        told = [(row.name, row.kind, row.document_id, row.sha256) for row in self._rows]
        told += [
            (row.name, "mixture", row.document_id, _hash(row.weights))
            for row in self.mixtures.values()
        ]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()

    def list(self, kind: EntryKind | None = None) -> AdapterInfos:
        """Returns the adapters and mixtures in joining order."""
        found = [self._info(row) for row in self._rows if kind in (None, row.kind)]
        if kind in (None, "mixture"):
            found += [self._mixture_info(row) for row in self.mixtures.values()]
        return sorted(found, key=lambda info: info.id)

    def info(self, name: str) -> AdapterInfo:
        """Returns one adapter or mixture.

        Raises:
            AdapterNotFoundError: there is none of that name.
        """
        if name in self.mixtures:
            return self._mixture_info(self.mixtures[name])
        return self._info(self.row(name))

    def row(self, name: str) -> AdapterRow:
        """Returns one adapter's manifest row; raises AdapterNotFoundError."""
        if name not in self._by_name:
            raise AdapterNotFoundError.of([name], {*self._by_name, *self.mixtures})
        return self._by_name[name]

    @cached_property
    def latents(self) -> LatentTable:
        """The latent adapters, as mixtures count them."""
        rows = [row for row in self._rows if row.kind == "latent"]
        return LatentTable({row.name: tuple(self._layouts[row.layout].ranks) for row in rows})

    def mixture(self, name: str) -> dict[str, dict[str, float]]:
        """Returns a passage's mixture: module to latent adapter to weight.

        Raises:
            AdapterNotFoundError: there is no mixture of that name.
            LibraryCorruptError: it is not as it was written.
        """
        if name not in self.mixtures:
            raise AdapterNotFoundError.of([name], self.mixtures)
        return self.latents.unpack(self.mixtures[name].weights, name)

    def modules(self, kind: EntryKind | None = None) -> dict[str, ModuleShape]:
        """Returns the modules that at least one adapter updates, with their widths; sorted."""
        shapes: dict[str, ModuleShape] = {}
        for key in {row.layout for row in self._rows if kind in (None, row.kind)}:
            shapes |= self._layouts[key].shapes
        return dict(sorted(shapes.items()))

    @cached_property
    def _shapes(self) -> dict[str, ModuleShape]:
        return self.modules()

    def stack(self, module: str, kind: AdapterKind) -> ModuleStack:
        """Returns the module's adapters of one kind, in joining order; may have no row.

        Arrow vectors are a view of the file, or one copy held by this snapshot; factors are read
        when they are asked for.

        Raises:
            LibraryError: no adapter of any kind updates the module, or the kind is unknown.
            LibraryCorruptError: a segment that it needs cannot be read.
        """
        with self._lock:
            if (module, kind) not in self._stacks:
                self._check_known(module, kind)
                if kind not in self._columns:
                    self._columns[kind] = Columns.of([r for r in self._rows if r.kind == kind])
                self._stacks[module, kind] = self.stack_of(module, kind, self._columns[kind])
            return self._stacks[module, kind]

    def stack_of(self, module: str, kind: AdapterKind, columns: Columns) -> ModuleStack:
        """Returns the stack of the given adapters, leaving out those without the module."""
        ranks = torch.zeros(max(self._layouts, default=0) + 1, dtype=torch.long)
        for key, layout in self._layouts.items():
            ranks[key] = layout.ranks.get(module, 0)
        columns = columns.where(ranks[columns.layouts] > 0)
        keys, block_of = columns.segments.unique(return_inverse=True)
        segments = [self.segment(key) for key in keys.tolist()]
        local = torch.empty_like(block_of)
        for index, segment in enumerate(segments):
            here = block_of == index
            local[here] = segment.rows(module, columns.positions[here])
        return ModuleStack(
            module,
            kind,
            columns.names,
            shape=self._shapes[module],
            ranks=ranks[columns.layouts].tolist(),
            blocks=[segment.block(module) for segment in segments],
            block_of=block_of,
            local=local,
        )

    def prefetch(self, names: Iterable[str]) -> None:
        """Has the factors of these adapters read from disk, without waiting for them.

        Raises:
            AdapterNotFoundError: one is not here, or is a mixture.
        """
        for row in map(self.row, names):
            segment = self.segment(row.segment)
            for module in self._layouts[row.layout].ranks:
                segment.expect(module, row.position)

    def segment(self, key: int) -> Segment:
        """Returns a mapped segment; raises LibraryCorruptError if it could not be read."""
        segment = self.segments[key]
        if isinstance(segment, LibraryCorruptError):
            raise segment
        return segment

    def forms(self, name: str) -> dict[str, SpectralForm]:
        """Returns one adapter's factors, module by module, at their own ranks; mapped."""
        row = self.row(name)
        segment = self.segment(row.segment)
        return {
            module: segment.form(module, row.position, rank)
            for module, rank in self._layouts[row.layout].ranks.items()
        }

    def hash_stored(self, name: str) -> str:
        """Returns the SHA-256 of what is stored of an adapter, as it was when it joined."""
        row = self.row(name)
        segment = self.segment(row.segment)
        forms = {
            module: segment.form(module, row.position, rank, as_stored=True)
            for module, rank in self._layouts[row.layout].ranks.items()
        }
        return hash_forms(forms, None if segment.family is None else segment.family.bases)

    def families(self) -> tuple[Family, ...]:
        """Returns the families of its adapters, each once; see `families.py`."""
        found: dict[Hashable, Family] = {}
        for segment in self.segments.values():
            if isinstance(segment, Segment) and segment.family is not None:
                found.setdefault(segment.family.key, segment.family)
        return tuple(found.values())

    def is_of(self, row: AdapterRow, family: Family | None) -> bool:
        """Whether an adapter is stored as a member of a family; of none for None."""
        found = self.segment(row.segment).family
        if found is None or family is None:
            return found is family
        return found.key == family.key

    def lora(self, name: str) -> dict[str, LoraModule]:
        """Returns an adapter in PEFT's orientation; scaling 1, for it is in `lora_B` already.

        A mixture's factors are those of what it mixes, weighted and side by side.
        """
        if name not in self.mixtures:
            return {m: LoraModule(form.A, form.B.mT, 1.0) for m, form in self.forms(name).items()}
        modules: dict[str, tuple[list[Tensor], list[Tensor]]] = {}
        mixed = self.mixture(name)
        for latent in dict.fromkeys(latent for weights in mixed.values() for latent in weights):
            for module, form in self.forms(latent).items():
                if weight := mixed[module].get(latent):
                    parts = modules.setdefault(module, ([], []))
                    parts[0].append(form.A)
                    parts[1].append(weight * form.B)
        return {
            module: LoraModule(torch.cat(a), torch.cat(b).mT, 1.0)
            for module, (a, b) in sorted(modules.items())
        }

    def rows(self) -> Sequence[AdapterRow]:
        """Returns the manifest rows in joining order."""
        return self._rows

    def layout(self, row: AdapterRow) -> Layout:
        """Returns the modules, ranks and widths of an adapter."""
        return self._layouts[row.layout]

    def _check_known(self, module: str, kind: AdapterKind) -> None:
        if kind not in get_args(AdapterKind):
            raise LibraryError('Expected kind "task", "knowledge" or "latent"', f"found {kind!r}")
        if module not in self._shapes:
            raise LibraryError(
                "Expected a module that an adapter of the library updates",
                f"found {module!r}",
                "see `modules()`",
            )

    def _info(self, row: AdapterRow) -> AdapterInfo:
        ranks = self._layouts[row.layout].ranks
        return AdapterInfo(
            id=row.id,
            name=row.name,
            kind=cast("EntryKind", row.kind),
            document_id=row.document_id,
            rank=max(ranks.values()),
            modules=tuple(ranks),
            n_bytes=row.n_bytes,
            source=row.source,
            sha256=row.sha256,
            metadata=json.loads(row.metadata),
            created=row.created,
            base_model=row.base_model,
        )

    def _mixture_info(self, row: MixtureRow) -> AdapterInfo:
        mixed = {module: weights for module, weights in self.mixture(row.name).items() if weights}
        return AdapterInfo(
            id=row.id,
            name=row.name,
            kind="mixture",
            document_id=row.document_id,
            rank=max(map(self._rank, mixed, mixed.values()), default=0),
            modules=tuple(mixed),
            n_bytes=len(row.weights),
            source="",
            sha256=_hash(row.weights),
            metadata=json.loads(row.metadata),
            created=datetime.fromtimestamp(row.created, UTC).isoformat(timespec="seconds"),
            base_model=None,
        )

    def _rank(self, module: str, latents: Iterable[str]) -> int:
        return sum(self._layouts[self._by_name[name].layout].ranks[module] for name in latents)


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
