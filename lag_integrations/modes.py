"""How each mode uses the retrieved documents: as text, as adapters, as both, or not at all."""

from __future__ import annotations

from typing import Literal

from lag_engine import PlanError

Documents = Literal["none", "text", "adapters", "both"]

DOCUMENTS: dict[str, Documents] = {
    "base": "none",
    "arrow": "none",
    "spectr": "none",
    "lag": "none",
    "rag": "text",
    "rag+lag": "text",
    "prag": "adapters",
    "prag+lag": "adapters",
    "oracle": "adapters",
    "rag+prag+lag": "both",
}
_WITHOUT_ROUTING: dict[Documents, str] = {"text": "rag", "adapters": "prag", "both": "prag"}
_WITH_ROUTING: dict[Documents, str] = {
    "text": "rag+lag",
    "adapters": "prag+lag",
    "both": "rag+prag+lag",
}
_BASES = {
    "base": _WITHOUT_ROUTING,
    "rag": _WITHOUT_ROUTING,
    "prag": _WITHOUT_ROUTING,
    "lag": _WITH_ROUTING,
    "rag+lag": _WITH_ROUTING,
    "prag+lag": _WITH_ROUTING,
    "rag+prag+lag": _WITH_ROUTING,
}


def pins_adapters(mode: str) -> bool:
    """Whether the mode applies adapters that the request names."""
    return DOCUMENTS.get(mode) in ("adapters", "both")


def documents_of(mode: str) -> Documents:
    """How the mode uses documents.

    Raises:
        PlanError: there is no such mode.
    """
    if mode not in DOCUMENTS:
        raise PlanError(
            f"Expected one of the modes {', '.join(DOCUMENTS)}", f"found {mode!r}", "Choose one"
        )
    return DOCUMENTS[mode]


def mode_with(mode: str, documents: Documents) -> str:
    """The mode that routes tasks as `mode` does and uses documents in the given way.

    "both" without routing is mode "prag" with the text in the prompt as well.

    Raises:
        PlanError: `mode` has no such counterpart.
    """
    if documents_of(mode) == documents or documents == "none":
        return mode
    if mode not in _BASES:
        raise PlanError(
            f"Expected a mode that can use documents as {documents!r}",
            f"found {mode!r}",
            f"Choose one of {', '.join(_BASES)}",
        )
    return _BASES[mode][documents]
