"""How an adapter joins: read, checked, brought into spectral form; nothing is written here."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import NamedTuple, cast

import torch
from torch import Tensor

from lag_engine.adapters.base_model import BaseModel, check_base
from lag_engine.adapters.families import Family, Sums, sums_of
from lag_engine.adapters.info import AdapterSource, checked_kind
from lag_engine.adapters.peft_adapter import PeftAdapter, check_adapter, warn_if_dead
from lag_engine.adapters.peft_format import read_peft
from lag_engine.adapters.rows import Layout
from lag_engine.adapters.segments import memory_of
from lag_engine.adapters.spectral import SpectralForm, to_spectral_batched
from lag_engine.adapters.stack import ModuleShape
from lag_engine.errors import AdapterFormatError

# A MiB in float64: more leaves the processor's cache, and is given back to the system and cleared
# by it again for every adapter.
_ELEMENTS_AT_ONCE = 1 << 17


class Newcomer(NamedTuple):
    """An adapter ready to be written.

    Attributes:
        values: its columns in the manifest, without place and layout.
        layout: modules, ranks and widths.
        forms: module to factors, in the library's dtype.
        sums: what tells its lora_A from others.
        is_founder: whether it begins a family even alone.
    """

    values: dict[str, object]
    layout: Layout
    forms: Mapping[str, SpectralForm]
    sums: Sums
    is_founder: bool

    @property
    def n_bytes(self) -> int:
        """What the factors take."""
        return cast("int", self.values["n_bytes"])

    def of(self, family: Family, forms: Mapping[str, SpectralForm]) -> Newcomer:
        """Returns the same adapter as it is stored in its family."""
        stored = {"n_bytes": n_bytes_of(forms), "sha256": hash_forms(forms, family.bases)}
        return self._replace(values=self.values | stored, forms=forms)


def prepare(
    source: AdapterSource,
    base: BaseModel,
    known: Mapping[str, ModuleShape],
    *,
    dtype: torch.dtype,
) -> Newcomer:
    """Reads an adapter, checks it against the base model and computes its spectral form.

    Args:
        source: what to read.
        base: the library's base model.
        known: widths of the modules that are in the library already.
        dtype: of the stored factors.

    Raises:
        AdapterError: it cannot be read, cannot be applied exactly, or belongs elsewhere.
        LibraryError: name, kind or metadata are not acceptable.
    """
    name, kind, metadata = source.resolved_name(), checked_kind(source.kind), source.metadata_json()
    adapter = _read(source)
    check_base(adapter, base, known, allow_other_base=source.allow_other_base)
    forms = spectral_forms(adapter, dtype=dtype)
    values: dict[str, object] = {
        "name": name,
        "kind": kind,
        "document_id": source.document_id,
        "n_bytes": n_bytes_of(forms),
        "source": adapter.source,
        "base_model": adapter.base_model,
        "sha256": hash_forms(forms),
        "metadata": metadata,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    sums = sums_of(adapter.modules)
    return Newcomer(values, _layout_of(forms), forms, sums, source.shares_lora_A)


def _read(source: AdapterSource) -> PeftAdapter:
    if isinstance(source.source, PeftAdapter):
        check_adapter(source.source)
        warn_if_dead(source.source)
        return source.source
    return read_peft(source.source, revision=source.revision, allow_pickle=source.allow_pickle)


def spectral_forms(adapter: PeftAdapter, *, dtype: torch.dtype) -> dict[str, SpectralForm]:
    """Returns module to spectral form, batched over modules of one shape.

    Raises:
        AdapterFormatError: the factors overflow the dtype.
    """
    forms: dict[str, SpectralForm] = {}
    for modules in _alike(adapter):
        parts = [adapter.modules[module] for module in modules]
        stacked = to_spectral_batched(
            torch.stack([part.lora_A for part in parts]),
            torch.stack([part.lora_B for part in parts]),
            torch.tensor([part.scaling for part in parts], dtype=torch.float64),
            dtype=dtype,
        )
        # No value of B is larger than the largest singular value.
        if not bool(stacked.singular.isfinite().all()):
            raise AdapterFormatError(
                f"Expected factors that {dtype} can hold",
                f"found larger ones in {adapter.source or 'the adapter'} ({modules[0]})",
                "use a library of dtype float32",
            )
        rows = zip(*(field.unbind() for field in stacked), strict=True)
        forms.update(zip(modules, map(SpectralForm._make, rows), strict=True))
    return dict(sorted(forms.items()))


def _alike(adapter: PeftAdapter) -> Iterator[list[str]]:
    """Yields modules of one shape, as many as are quickly worked on together."""
    by_shape: dict[tuple[int, ...], list[str]] = {}
    for module, (lora_A, lora_B, _) in adapter.modules.items():
        by_shape.setdefault((*lora_A.shape, lora_B.shape[0]), []).append(module)
    for (rank, *widths), modules in by_shape.items():
        n = max(1, _ELEMENTS_AT_ONCE // (rank * max(widths)))
        yield from (modules[start : start + n] for start in range(0, len(modules), n))


def hash_forms(forms: Mapping[str, SpectralForm], bases: Mapping[str, Tensor] | None = None) -> str:
    """Returns the SHA-256 of modules, ranks and factors, as they are stored.

    Args:
        forms: module to factors.
        bases: module to what the family of the adapter shares, if it has one.
    """
    digest = hashlib.sha256()
    for module, form in sorted(forms.items()):
        digest.update(f"{module} {tuple(form.A.shape)} {form.A.dtype}\n".encode())
        for field in (form.A, form.B, form.singular.float()):
            digest.update(memory_of(field))
        if bases is not None:
            digest.update(memory_of(bases[module]))
    return digest.hexdigest()


def n_bytes_of(forms: Mapping[str, SpectralForm]) -> int:
    """Returns what factors take."""
    return sum(form.A.nbytes + form.B.nbytes + 4 * form.rank for form in forms.values())


def _layout_of(forms: Mapping[str, SpectralForm]) -> Layout:
    return Layout(
        {module: form.rank for module, form in forms.items()},
        {module: ModuleShape(form.A.shape[1], form.B.shape[1]) for module, form in forms.items()},
    )
