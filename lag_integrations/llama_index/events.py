"""An instrumentation event of its own: which adapters answered."""

from __future__ import annotations

from typing import Any

from llama_index_instrumentation import get_dispatcher
from llama_index_instrumentation.base.event import BaseEvent

dispatcher = get_dispatcher(__name__)


class LAGRoutingEvent(BaseEvent):
    """Comes once per answer, between the start and the end event of its chat or completion.

    Args:
        model: the name the answer was asked for by.
        finish_reason: "stop", "length" or "tool_calls".
        routing: the same as the response's `raw["lag_routing"]`.
        documents: what became of the retrieved documents, if a synthesizer asked.
    """

    model: str
    finish_reason: str
    routing: dict[str, Any]
    documents: dict[str, Any] | None = None

    @classmethod
    def class_name(cls) -> str:
        """The event's name."""
        return "LAGRoutingEvent"
