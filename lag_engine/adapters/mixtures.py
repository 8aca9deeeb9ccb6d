"""Mixtures: how passages mix the library's latent adapters, a few numbers each (Poly-PRAG).

A mixture names latent adapters and their weights for each module. On disk it is a blob in the
manifest: no factors, so that its size does not depend on the model's widths.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lag_engine.adapters.info import checked_name, metadata_json
from lag_engine.errors import LibraryCorruptError, LibraryError

MAX_LATENTS = 256

MixtureWeights = Mapping[str, Mapping[str, float]]
"""Module to latent adapter to weight."""


@dataclass(frozen=True, eq=False)
class MixtureSource:
    """A passage's mixture on its way into a library.

    Attributes:
        name: under which it joins; adapters and mixtures share one space of names.
        weights: for each module the latent adapters that are mixed there, with their weights,
            which are kept in half precision.
        document_id: the document the passage is from.
        metadata: the owner's own notes; JSON.
    """

    name: str
    weights: MixtureWeights
    document_id: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def resolved_name(self) -> str:
        """Returns the name; raises LibraryError if it cannot be one."""
        return checked_name(self.name)

    def metadata_json(self) -> str:
        """Returns the metadata as JSON; raises LibraryError for what JSON cannot hold."""
        return metadata_json(self.metadata)


class LatentTable:
    """The library's latent adapters as mixtures count them: by place in the joining order.

    Args:
        latents: latent adapter to the modules it updates, in joining order.

    Attributes:
        held: the same.
        names: of the latent adapters.
        modules: that any of them updates, sorted.
    """

    def __init__(self, latents: Mapping[str, Sequence[str]]) -> None:
        self.held = dict(latents)
        self.names = tuple(latents)
        self.modules = tuple(sorted({module for held in latents.values() for module in held}))
        self._index = {name: index for index, name in enumerate(self.names)}

    def pack(self, source: MixtureSource) -> bytes:
        """Returns a mixture as it is stored.

        Four bytes of checksum, then the mixture's width K in one byte, the places of the latent
        adapters in one byte each and their weights in two; (modules, K) each.

        Raises:
            LibraryError: it mixes what is no latent adapter of a module, or nothing, or a weight
                does not fit half precision.
        """
        self._check(source)
        rows = [list(source.weights.get(module, {}).items()) for module in self.modules]
        width = max(map(len, rows))
        padded = [[*row, *[(self.names[0], 0.0)] * (width - len(row))] for row in rows]
        items = [item for row in padded for item in row]
        try:
            body = struct.pack(
                _body_format(len(items)),
                width,
                *(self._index[latent] for latent, _ in items),
                *(weight for _, weight in items),
            )
        except OverflowError as error:
            raise _unfit(source, "a weight beyond half precision") from error
        return zlib.crc32(body).to_bytes(4, "little") + body

    def unpack(self, blob: bytes, name: str) -> dict[str, dict[str, float]]:
        """Returns what was packed, but for weights of zero; in the order of `modules`.

        Raises:
            LibraryCorruptError: the bytes are not what `pack` made of these latent adapters.
        """
        width, n_modules, body = blob[4] if len(blob) > 4 else 0, len(self.modules), blob[4:]
        n_items = width * n_modules
        if not width or len(body) != struct.calcsize(_body_format(n_items)):
            raise _corrupt(name, f"{len(blob)} bytes for {n_modules} modules")
        if zlib.crc32(body).to_bytes(4, "little") != blob[:4]:
            raise _corrupt(name, "other bytes than were written")
        _, *values = struct.unpack(_body_format(n_items), body)
        if max(values[:n_items]) >= len(self.names):
            raise _corrupt(name, "latent adapters that there are not")
        items = [
            (self.names[index], weight)
            for index, weight in zip(values[:n_items], values[n_items:], strict=True)
        ]
        return {
            module: {
                latent: weight
                for latent, weight in items[place * width : (place + 1) * width]
                if weight
            }
            for place, module in enumerate(self.modules)
        }

    def _check(self, source: MixtureSource) -> None:
        if not any(source.weights.values()):
            raise _unfit(source, "nothing to mix")
        if len(self.names) > MAX_LATENTS:
            raise LibraryError(
                f"Expected at most {MAX_LATENTS} latent adapters",
                f"found {len(self.names)}",
                "train fewer",
            )
        for module, row in source.weights.items():
            for latent, weight in row.items():
                if module not in self.held.get(latent, ()):
                    raise _unfit(source, f"{latent!r} in {module}")
                if not math.isfinite(weight):
                    raise _unfit(source, f"the weight {weight!r} of {latent!r}")


def _body_format(n_items: int) -> str:
    return f"<B{n_items}B{n_items}e"


def _unfit(source: MixtureSource, found: str) -> LibraryError:
    return LibraryError(
        "Expected finite weights of the library's latent adapters, in modules that they update",
        f"found {found} in the mixture {source.name!r}",
        "mix adapters of kind 'latent'; see library.list('latent')",
    )


def _corrupt(name: str, found: str) -> LibraryCorruptError:
    return LibraryCorruptError(
        f"Expected the mixture {name!r} as it was written",
        f"found {found}",
        "restore the manifest from a copy, or remove this passage and encode it again",
    )
