"""What an adapter depends on, as a hash: where it changes, the adapter is stale."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lag_engine.adapters import AdapterLibrary
from lag_engine.documents.passages import Passage, content_hash

Augment = Callable[[Passage], Passage]
"""Gives a passage pairs and rewrites. What tells one from another, for revisions, is its
`fingerprint_of(passage)` or `fingerprint`, if it has one."""


@dataclass(frozen=True)
class Revisions:
    """Tells a passage's revision; call it with the passage as it was given.

    Attributes:
        encoder: The name of what encodes.
        settings: Its settings, as JSON can hold them.
        base: Of the base model; see `base_identity`.
        augment: What is done to passages first.
    """

    encoder: str
    settings: Mapping[str, Any]
    base: Sequence[object]
    augment: Augment | None = None

    def __call__(self, passage: Passage) -> str:
        """A short hash of all that the passage's adapter depends on; hex."""
        told = None if self.augment is None else fingerprint(self.augment, passage)
        content = [self.encoder, passage.content_hash, self.settings, self.base, told]
        return content_hash(content)[:16]


def base_identity(library: AdapterLibrary) -> list[object]:
    """What revisions say of a base model: its name and shapes."""
    shapes = library.base.shapes or {}
    return [library.base_model, sorted([name, *shape] for name, shape in shapes.items())]


def fingerprint(augment: Augment, passage: Passage) -> str:
    """What tells an augmentation from another: what it says itself, or its name in the code."""
    if of_passage := getattr(augment, "fingerprint_of", None):
        return str(of_passage(passage))
    told = getattr(augment, "fingerprint", None)
    return str(told or getattr(augment, "__qualname__", type(augment).__qualname__))
