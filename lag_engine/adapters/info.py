"""What is said of an adapter: when it is offered to a library, and once it is in."""

from __future__ import annotations

import json
from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from lag_engine.adapters.hub import short_name
from lag_engine.adapters.peft_adapter import PeftAdapter
from lag_engine.adapters.stack import AdapterKind
from lag_engine.errors import DuplicateAdapterError, LibraryError

EntryKind = AdapterKind | Literal["mixture"]
"""What a library lists: adapters of three kinds, and passages' mixtures of the latent ones."""

_MAX_NAME = 255
_DOTS = (".", "..")


@dataclass(frozen=True)
class AdapterInfo:
    """An adapter of a library, or a passage's mixture of latent ones.

    Attributes:
        id: unique for ever in its library; grows in joining order.
        name: unique among the library's present adapters and mixtures.
        kind: "task", "knowledge", "latent" or "mixture".
        document_id: the document that a knowledge adapter or a mixture was made from.
        rank: the highest rank among its modules; of a mixture, all that it mixes there.
        modules: full dotted paths in the base model, sorted.
        n_bytes: what its stored factors take, without padding and without what all adapters of its
            lora_A share; of a mixture, its routing vector.
        source: the folder or hub id it was read from; "" if made in memory.
        sha256: of what is stored: modules, ranks and factors, or a routing vector.
        metadata: the owner's own notes; JSON.
        created: when it joined; ISO 8601, UTC.
        base_model: the model it was trained on, as its config names it.
    """

    id: int
    name: str
    kind: EntryKind
    document_id: str | None
    rank: int
    modules: tuple[str, ...]
    n_bytes: int
    source: str
    sha256: str
    metadata: Mapping[str, Any]
    created: str
    base_model: str | None


@dataclass(frozen=True, eq=False)
class AdapterSource:
    """An adapter on its way into a library.

    Attributes:
        source: a PEFT folder, a hub id, or an adapter in memory.
        name: under which it joins; by default the last part of the folder or hub id.
        kind: "task", "knowledge" or "latent".
        document_id: the document a knowledge adapter was made from.
        metadata: the owner's own notes; JSON.
        revision: branch, tag or commit of a hub id.
        allow_pickle: also read `adapter_model.bin`.
        allow_other_base: accept an adapter whose config names another base model, if it fits.
        shares_lora_A: others with the same lora_A will join later. Those that join together are
            found to share it without being told.
    """

    source: str | Path | PeftAdapter
    name: str | None = None
    kind: AdapterKind = "task"
    document_id: str | None = None
    metadata: Mapping[str, Any] | None = None
    revision: str | None = None
    allow_pickle: bool = False
    allow_other_base: bool = False
    shares_lora_A: bool = False

    def resolved_name(self) -> str:
        """Returns the name under which it joins.

        Raises:
            LibraryError: the name is missing or cannot be a name.
        """
        if self.name is not None:
            return checked_name(self.name)
        given = self.source.source if isinstance(self.source, PeftAdapter) else self.source
        if name := short_name(given):
            return checked_name(name)
        raise LibraryError(
            "Expected a name for the adapter", "found neither name nor folder", "pass name=..."
        )

    def metadata_json(self) -> str:
        """Returns the metadata as JSON.

        Raises:
            LibraryError: it is no mapping, or holds what JSON cannot.
        """
        return metadata_json(self.metadata or {})


def metadata_json(metadata: Mapping[str, Any]) -> str:
    """Returns notes as they are stored; raises LibraryError where JSON cannot hold them."""
    try:
        return json.dumps(dict(metadata), allow_nan=False, sort_keys=True, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise LibraryError(
            "Expected metadata that JSON can hold",
            f"found: {error}",
            "pass a dict of strings, numbers, booleans, lists and dicts",
        ) from error


def checked_name(name: str) -> str:
    """Returns the name if it can be one: printable, trimmed, no path separator.

    Raises:
        LibraryError: it cannot.
    """
    is_plain = isinstance(name, str) and name.isprintable() and name == name.strip()
    if not is_plain or not 0 < len(name) <= _MAX_NAME or set("/\\") & set(name) or name in _DOTS:
        raise LibraryError(
            "Expected an adapter name without path separators, line breaks or outer spaces, of "
            f"1 to {_MAX_NAME} characters",
            f"found {name!r}",
            "pass another name",
        )
    return name


def refuse_taken(name: str, taken: Container[str], *, where: str) -> None:
    """Raises DuplicateAdapterError if the name is among those that are taken."""
    if name in taken:
        raise DuplicateAdapterError(
            "Expected a new name",
            f"found that {name!r} is taken {where}",
            "pass another name, or remove the adapter that has it",
        )


def checked_kind(kind: str) -> str:
    """Returns the kind if it is one.

    Raises:
        LibraryError: it is none.
    """
    if kind not in get_args(AdapterKind):
        known = '"task", "knowledge" or "latent"'
        raise LibraryError(f"Expected kind {known}", f"found {kind!r}", "pass one")
    return kind
