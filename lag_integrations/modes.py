"""How each mode uses the retrieved documents: as text, as adapters, as both, or not at all."""

from __future__ import annotations

from typing import Literal

from lag_engine import PlanError

Documents = Literal["none", "text", "adapters", "both"]
Encoding = Literal["prag", "polyprag", "dyprag"]
"""How a document becomes an adapter: one of its own, a mixture of the library's latent ones, or one
that is made of its text while the question is asked."""

ENCODINGS: tuple[Encoding, ...] = ("prag", "polyprag", "dyprag")

DOCUMENTS: dict[str, Documents] = {
    "base": "none",
    "arrow": "none",
    "spectr": "none",
    "lag": "none",
    "rag": "text",
    "rag+lag": "text",
    "prag": "adapters",
    "polyprag": "adapters",
    "dyprag": "adapters",
    "prag+lag": "adapters",
    "polyprag+lag": "adapters",
    "dyprag+lag": "adapters",
    "oracle": "adapters",
    "rag+prag+lag": "both",
}
_WITHOUT_COUNTERPART = ("arrow", "spectr", "oracle")


def pins_adapters(mode: str) -> bool:
    """Whether the mode applies adapters that the request names."""
    return DOCUMENTS.get(mode) in ("adapters", "both")


def encoding_of(mode: str) -> Encoding:
    """Which of a document's adapters the mode applies; PRAG's where it is named after none."""
    parts = mode.split("+")
    return next((encoding for encoding in ENCODINGS if encoding in parts), "prag")


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

    "both" is the mode of the adapters with the text in the prompt as well, but for PRAG with
    routing, which has a name of its own.

    Raises:
        PlanError: `mode` has no such counterpart.
    """
    if documents_of(mode) == documents or documents == "none":
        return mode
    if mode in _WITHOUT_COUNTERPART:
        usable = [other for other in DOCUMENTS if other not in _WITHOUT_COUNTERPART]
        raise PlanError(
            f"Expected a mode that can use documents as {documents!r}",
            f"found {mode!r}",
            f"Choose one of {', '.join(usable)}",
        )
    named = "rag" if documents == "text" else encoding_of(mode)
    if "lag" not in mode.split("+"):
        return named
    return "rag+prag+lag" if (named, documents) == ("prag", "both") else f"{named}+lag"
