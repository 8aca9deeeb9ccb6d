"""A picture of one answer's routing; the engine's own."""

from __future__ import annotations

from lag_engine import write_heat_map

__all__ = ["write_heat_map"]
