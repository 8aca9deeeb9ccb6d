"""AdapterLibrary: the adapters of one base model, on disk; `store.py` says how they are kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console
from rich.progress import track

from lag_engine.adapters.base_model import describe_base
from lag_engine.adapters.info import AdapterInfo, AdapterSource, checked_name
from lag_engine.adapters.joining import prepare
from lag_engine.adapters.manifest import FILE_NAME, Manifest
from lag_engine.adapters.mixtures import MixtureSource
from lag_engine.adapters.peft_adapter import PeftAdapter
from lag_engine.adapters.reading import DTYPES, OpenLibrary
from lag_engine.adapters.segments import sync_folder
from lag_engine.adapters.snapshot import AdapterInfos
from lag_engine.adapters.stack import AdapterKind
from lag_engine.adapters.store import SEGMENTS
from lag_engine.adapters.writing import Batch
from lag_engine.errors import LibraryError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class AdapterLibrary(OpenLibrary):
    """The adapters of one base model, on disk; see `create` and `open`.

    Reading methods see the newest committed state, other processes' changes included. Where
    several answers must belong together, take `snapshot()` once and ask that. Safe to share
    between threads; not to be carried over a fork.

    Attributes:
        path: the library's folder.
        is_read_only: whether changes are refused.
        dtype: of stored factors and arrow vectors.
    """

    @classmethod
    def create(
        cls,
        path: str | Path,
        *,
        base_model: str | Path | PreTrainedModel | None,
        base_name: str | None = None,
        dtype: str = "float32",
    ) -> Self:
        """Makes an empty library and opens it for writing.

        Args:
            path: the folder; is created; must not hold a library.
            base_model: the model its adapters belong to: a folder, a hub id, the model itself, or
                None for "not known". Where the config is at hand (a folder, a cached hub id, a
                model), every adapter is checked against the model's modules and widths; else
                against the adapters that came before it, and the name.
            base_name: the name to note instead of the one `base_model` carries.
            dtype: "float32" (default), "float64", "bfloat16" or "float16".

        Raises:
            LibraryError: there is a library already, or the dtype is unknown.
            ModelError: `base_model` is a folder without a readable config.
        """
        path = Path(path)
        if dtype not in DTYPES:
            known = ", ".join(DTYPES)
            raise LibraryError(
                "Expected a dtype for stored factors", f"found {dtype!r}", f"pass one of {known}"
            )
        if (path / FILE_NAME).exists():
            raise LibraryError(
                f"Expected no library at {path} yet",
                "found one",
                "open it with AdapterLibrary.open, add to it with `lag library add`, or choose "
                "another folder",
            )
        base = describe_base(base_model)
        (path / SEGMENTS).mkdir(parents=True, exist_ok=True)
        Manifest.create(path, base._replace(name=base_name or base.name), dtype=dtype)
        sync_folder(path)
        return cls(path, read_only=False)

    def add(
        self,
        source: str | Path | PeftAdapter,
        *,
        name: str | None = None,
        kind: AdapterKind = "task",
        document_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        revision: str | None = None,
        allow_pickle: bool = False,
        allow_other_base: bool = False,
    ) -> AdapterInfo:
        """Adds one adapter, or raises and leaves the library as it was.

        Args:
            source: a PEFT folder, a hub id, or an adapter in memory.
            name: by default the last part of the folder or hub id.
            kind: "task", "knowledge" or "latent".
            document_id: the document a knowledge adapter was made from.
            metadata: the owner's own notes; JSON.
            revision: branch, tag or commit of a hub id.
            allow_pickle: also read `adapter_model.bin`.
            allow_other_base: accept an adapter whose config names another base model, if its
                modules and widths fit.

        Raises:
            DuplicateAdapterError: the name is taken.
            AdapterFormatError: its files cannot be read.
            UnsupportedAdapterError: it cannot be applied exactly.
            AdapterMismatchError: it belongs to another base model.
            LibraryError: name, kind or metadata are not acceptable, or this is read-only.

        Warns:
            DeadAdapterWarning: its update is zero everywhere.
        """
        offer = AdapterSource(
            source, name, kind, document_id, metadata, revision, allow_pickle, allow_other_base
        )
        return self.add_many([offer], progress=False)[0]

    def add_many(
        self,
        sources: Iterable[AdapterSource | str | Path | PeftAdapter],
        *,
        replace: bool = False,
        progress: bool = True,
    ) -> AdapterInfos:
        """Adds many adapters in one change: all of them, or none.

        They share one segment (above 256 MiB, several), which is what makes opening fast.

        Args:
            sources: anything `add` takes; `AdapterSource` to say more than the source.
            replace: where a name is taken, the newcomer takes its place in the same change; it
                joins last.
            progress: show a bar on standard error.

        Returns:
            The newcomers in joining order.

        Raises:
            LagError: as `add`, for the first adapter that is not acceptable.
        """
        with self._changing():
            batch = self._batch(replace=replace)
            for source in _tracked(sources, progress):
                offer = source if isinstance(source, AdapterSource) else AdapterSource(source)
                batch.refuse_taken(offer.resolved_name())
                batch.add(prepare(offer, self._base, batch.shapes, dtype=self.dtype))
            names = batch.commit()
        return [self.info(name) for name in names]

    def add_mixtures(
        self,
        mixtures: Iterable[MixtureSource],
        *,
        latents: Iterable[AdapterSource] = (),
        replace: bool = False,
    ) -> AdapterInfos:
        """Adds mixtures of latent adapters in one change: all of them, or none.

        Args:
            mixtures: of adapters of kind "latent", in `latents` or in the library.
            latents: if any, they take the place of all latent adapters of the library.
            replace: where a name is taken, the newcomer takes its place in the same change; it
                joins last.

        Returns:
            The mixtures in joining order.

        Raises:
            LibraryError: a mixture is of what is no latent adapter; or others remain that mix the
                latent adapters that would go.
            LagError: as `add`, for names and latent adapters.
        """
        with self._changing():
            batch = self._batch(replace=replace)
            newcomers = [prepare(s, self._base, batch.shapes, dtype=self.dtype) for s in latents]
            if newcomers:
                batch.renew_latents(newcomers)
            names = [batch.mix(mixture) for mixture in mixtures]
            batch.commit()
        return [self.info(name) for name in names]

    def remove(self, name: str) -> None:
        """Removes an adapter or a mixture; an adapter's room on disk comes back with `compact`.

        Raises:
            AdapterNotFoundError: there is none of that name.
            LibraryError: it is a latent adapter, and there are mixtures.
        """
        with self._changing():
            batch = self._batch()
            batch.remove(name)
            batch.commit()

    def rename(self, old: str, new: str) -> AdapterInfo:
        """Gives an adapter or a mixture another name; its place in the order stays.

        Raises:
            AdapterNotFoundError: there is none of the old name.
            DuplicateAdapterError: the new name is taken.
            LibraryError: the new name cannot be one.
        """
        with self._changing():
            snapshot = self.snapshot()
            found = snapshot.info(old)
            if checked_name(new) == old:
                return found
            self._batch().refuse_taken(new)
            with self._store.manifest.change() as change:
                if old in snapshot.mixtures:
                    change.rename_mixture(snapshot.mixtures[old].id, new)
                else:
                    change.rename(snapshot.row(old).id, new)
        return self.info(new)

    def compact(self) -> int:
        """Packs all adapters into one segment and deletes what was removed.

        Readers that hold the old files keep them until they look again.

        Returns:
            The bytes that were freed.
        """
        with self._changing():
            return self._store.pack(self.dtype)

    def _batch(self, *, replace: bool = False) -> Batch:
        store = self._store
        return Batch(store.manifest, store.segments, self.snapshot(), self.dtype, replace=replace)

    def _changing(self) -> AbstractContextManager[None]:
        self._require_open()
        if self.is_read_only:
            raise LibraryError(
                "Expected a library that is open for writing",
                f"found {self.path} opened with read_only=True",
                "open it with AdapterLibrary.open(path)",
            )
        return self._store.changing()


def _tracked(
    sources: Iterable[AdapterSource | str | Path | PeftAdapter], progress: bool
) -> Iterable[AdapterSource | str | Path | PeftAdapter]:
    if not progress:
        return sources
    console = Console(stderr=True)
    return track(sources, description="Adding adapters", console=console)
