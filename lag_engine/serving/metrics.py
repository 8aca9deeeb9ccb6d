"""What the server did so far, in Prometheus' text format."""

from __future__ import annotations

from collections import Counter
from contextlib import aclosing
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from lag_engine.model.generation import StreamPiece

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_HELP = {
    "lag_answers_running": ("gauge", "Answers being written or waiting for the model."),
    "lag_answers_total": ("counter", "Answers that ended, by how."),
    "lag_prompt_tokens_total": ("counter", "Prompt tokens of finished answers."),
    "lag_completion_tokens_total": ("counter", "Written tokens of finished answers."),
}


class Metrics:
    """Counts answers and tokens; on one event loop."""

    def __init__(self) -> None:
        self._values: Counter[tuple[str, str]] = Counter(
            {(name, ""): 0 for name in _HELP if name != "lag_answers_total"}
        )

    async def counted(
        self, pieces: AsyncGenerator[StreamPiece, None]
    ) -> AsyncGenerator[StreamPiece, None]:
        """Yields the pieces of one answer, and counts it when it ends, however it does."""
        self._add("lag_answers_running", 1)
        end = "cancelled"
        try:
            async with aclosing(pieces):
                async for piece in pieces:
                    if piece.generation is not None:
                        usage, end = piece.generation.usage, piece.generation.finish_reason
                        self._add("lag_prompt_tokens_total", usage.prompt_tokens)
                        self._add("lag_completion_tokens_total", usage.completion_tokens)
                    yield piece
        except Exception:
            end = "error"
            raise
        finally:
            self._add("lag_answers_running", -1)
            self._add("lag_answers_total", 1, f'{{end="{end}"}}')

    def text(self) -> str:
        """All values, for Prometheus to read."""
        values = sorted(self._values.items())
        lines = []
        for name, (kind, meaning) in _HELP.items():
            lines += [f"# HELP {name} {meaning}", f"# TYPE {name} {kind}"]
            lines += [f"{name}{labels} {value}" for (of, labels), value in values if of == name]
        return "\n".join(lines) + "\n"

    def _add(self, name: str, amount: int, labels: str = "") -> None:
        self._values[name, labels] += amount
