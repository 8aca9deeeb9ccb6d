"""What an adapter depends on, as a hash: where it changes, the adapter is stale."""

from __future__ import annotations

from collections.abc import Callable

from lag_engine.adapters import AdapterLibrary
from lag_engine.documents.passages import Passage, content_hash

Augment = Callable[[Passage], Passage]
"""Gives a passage pairs and rewrites. What tells one from another, for revisions, is its
`fingerprint_of(passage)` or `fingerprint`, if it has one."""


def revision(
    passage: Passage, *, encoder: str, settings: object, base: object, augment: str | None
) -> str:
    """A short hash of all that an adapter depends on; hex."""
    return content_hash([encoder, passage.content_hash, settings, base, augment])[:16]


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
