"""Who makes vectors: a name and a revision, kept beside them."""

from __future__ import annotations

from typing import NamedTuple


class EmbeddingModel(NamedTuple):
    """Who makes the vectors of a collection.

    Attributes:
        name: of the model, such as its hub id.
        revision: of its weights; "" if unknown, which equals any.
    """

    name: str
    revision: str = ""

    def __str__(self) -> str:
        return f"{self.name}@{self.revision}" if self.revision else self.name

    def agrees_with(self, other: EmbeddingModel) -> bool:
        """Whether both may be the same, as far as is known."""
        return self.name == other.name and len({self.revision, other.revision} - {""}) < 2
