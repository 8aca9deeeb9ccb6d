"""A blocking iterator for asyncio; the engine's own."""

from __future__ import annotations

from lag_engine import iterate

__all__ = ["iterate"]
