"""What was asked of routing's speed, to be held against what `bench_routing` measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

RANK, RETRIEVE_K, STORE = 8, 20, "bfloat16"
APPROXIMATE = "lag, approximate"
"""The variant whose plans may miss an adapter."""

PEFT, MTTL, MTTL_MIX = "PEFT Arrow", "mttl Arrow", "mttl Arrow, output mix"
MTTL_STYLE = "mttl-style Arrow"
"""The peers: mttl as it is by default, mttl set to compute Arrow's definition, and our writing."""


class Target(NamedTuple):
    """One number asked for: at most so many times the base, or at least so much faster than a peer.

    Attributes:
        limit: the number.
        work: what is timed; see `works.py`.
        shape: of the model.
        dtype: of the model.
        adapters: how many.
        modules: that carry them.
        peer: None where the base is what it is held against.
        variant: of routing, that is held against the base.
    """

    limit: float
    work: str
    shape: str
    dtype: str
    adapters: int = 1000
    modules: str = "attention"
    peer: str | None = None
    variant: str = "lag"

    @property
    def what(self) -> str:
        """What is measured, in words."""
        words = f"{self.work}, N = {self.adapters:,}, {self.shape} {self.dtype}"
        words += "" if self.modules == "attention" else ", seven linears"
        return words + self.variant.removeprefix("lag")

    @property
    def text(self) -> str:
        """The limit with its sign."""
        return f">= {self.limit:g} x" if self.peer else f"<= {self.limit:.2f}"

    def measured(self, row: Mapping[str, Any]) -> Any:
        """Returns the spread that the limit is about."""
        return row["faster"] if self.peer else row["ratio"]

    def is_met(self, median: float) -> bool:
        """Whether a measured median reaches the limit."""
        return median >= self.limit if self.peer else median <= self.limit

    def is_of(self, row: Mapping[str, Any]) -> bool:
        """Whether it is about this result."""
        usual = (row["rank"], row["retrieve_k"], row["store"]) == (RANK, RETRIEVE_K, STORE)
        about = tuple(row[key] for key in ("work", "shape", "dtype", "adapters", "modules"))
        return usual and row["variant"] == (self.peer or self.variant) and about == self[1:6]


TARGETS = (
    Target(1.17, "decode", "S", "bfloat16"),
    Target(1.20, "decode", "S", "float32"),
    Target(1.12, "decode", "B", "bfloat16"),
    Target(1.05, "decode", "B", "bfloat16", 64),
    Target(1.30, "prefill", "S", "float32"),
    Target(1.18, "prefill", "B", "float32"),
    Target(1.80, "prefill", "S", "bfloat16"),
    Target(1.50, "prefill", "B", "bfloat16"),
    Target(1.70, "decode", "B", "bfloat16", 10_000),
    Target(1.30, "decode", "B", "bfloat16", 10_000, variant=APPROXIMATE),
    Target(1.40, "batch of 8, eight plans", "S", "float32"),
    Target(1.40, "batch of 8, eight plans", "S", "bfloat16"),
    Target(1.40, "decode", "S", "float32", 1000, "all"),
    Target(1.40, "decode", "S", "bfloat16", 1000, "all"),
    Target(13, "decode", "S", "float32", peer=PEFT),
    Target(60, "prefill", "S", "float32", peer=PEFT),
    Target(70, "decode", "B", "bfloat16", peer=PEFT),
    Target(80, "prefill", "B", "bfloat16", peer=PEFT),
    Target(2.2, "decode", "S", "float32", peer=MTTL),
    Target(4, "prefill", "S", "float32", peer=MTTL),
    Target(2.2, "decode", "S", "float32", peer=MTTL_MIX),
    Target(4, "prefill", "S", "float32", peer=MTTL_MIX),
)


def target_of(row: Mapping[str, Any]) -> Target | None:
    """Returns what was asked of a result, or None."""
    return next((target for target in TARGETS if target.is_of(row)), None)
