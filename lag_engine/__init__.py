"""LoRA-Augmented Generation: adapter libraries, per-token routing, and the engine that runs both.

Names are imported when they are first used, so that `import lag_engine` costs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lag_engine.errors import (
    AdapterError,
    AdapterFormatError,
    AdapterMismatchError,
    AdapterNotFoundError,
    BusyError,
    DeadAdapterWarning,
    DocumentError,
    DuplicateAdapterError,
    EvaluationError,
    GenerationError,
    LagError,
    LibraryCorruptError,
    LibraryError,
    LibraryLockedError,
    ModelError,
    PlanError,
    PromptTooLongError,
    UnsupportedAdapterError,
)

if TYPE_CHECKING:
    from lag_engine.adapters.audit import AuditReport, audit
    from lag_engine.adapters.info import AdapterInfo, AdapterSource
    from lag_engine.adapters.library import AdapterLibrary
    from lag_engine.adapters.mixtures import MixtureSource
    from lag_engine.adapters.peft_format import PeftAdapter, read_peft, write_peft
    from lag_engine.aio import iterate
    from lag_engine.documents.augment import Augmenter
    from lag_engine.documents.dyprag import DyPRAG
    from lag_engine.documents.dyprag_files import load_translator, save_translator
    from lag_engine.documents.dyprag_settings import DyPRAGSettings
    from lag_engine.documents.dyprag_training import train_translator
    from lag_engine.documents.dyprag_translator import Translator
    from lag_engine.documents.folder import Document, FolderReader
    from lag_engine.documents.pairs_file import PairsFile
    from lag_engine.documents.passages import Passage, QuestionAnswer
    from lag_engine.documents.polyprag import PolyPRAG
    from lag_engine.documents.polyprag_settings import PolyPRAGSettings
    from lag_engine.documents.prag import PRAG
    from lag_engine.documents.prag_settings import PRAGSettings
    from lag_engine.documents.store import DocumentStore, SyncReport
    from lag_engine.documents.vector_index import IndexEntry, VectorIndex
    from lag_engine.heat_map import adapter_colours, draw_heat_map, write_heat_map
    from lag_engine.model.engine import LAGEngine
    from lag_engine.model.generation import Generation, StreamPiece, TokenLogprob, Usage
    from lag_engine.model.guided import Guide
    from lag_engine.model.tools import ToolCall
    from lag_engine.routing.plan import MODES, Plan
    from lag_engine.routing.routers import LAG, Arrow, SpectR
    from lag_engine.routing.selections import Generated, Latent, Pinned, Routed
    from lag_engine.routing.trace import RoutingTrace

_HOMES = {
    "AdapterInfo": "adapters.info",
    "AdapterLibrary": "adapters.library",
    "AdapterSource": "adapters.info",
    "Arrow": "routing.routers",
    "AuditReport": "adapters.audit",
    "Augmenter": "documents.augment",
    "Document": "documents.folder",
    "DocumentStore": "documents.store",
    "DyPRAG": "documents.dyprag",
    "DyPRAGSettings": "documents.dyprag_settings",
    "FolderReader": "documents.folder",
    "Generated": "routing.selections",
    "Generation": "model.generation",
    "Guide": "model.guided",
    "IndexEntry": "documents.vector_index",
    "LAG": "routing.routers",
    "LAGEngine": "model.engine",
    "Latent": "routing.selections",
    "MODES": "routing.plan",
    "MixtureSource": "adapters.mixtures",
    "PRAG": "documents.prag",
    "PRAGSettings": "documents.prag_settings",
    "PairsFile": "documents.pairs_file",
    "Passage": "documents.passages",
    "PeftAdapter": "adapters.peft_format",
    "Pinned": "routing.selections",
    "Plan": "routing.plan",
    "PolyPRAG": "documents.polyprag",
    "PolyPRAGSettings": "documents.polyprag_settings",
    "QuestionAnswer": "documents.passages",
    "Routed": "routing.selections",
    "RoutingTrace": "routing.trace",
    "SpectR": "routing.routers",
    "StreamPiece": "model.generation",
    "SyncReport": "documents.store",
    "TokenLogprob": "model.generation",
    "ToolCall": "model.tools",
    "Translator": "documents.dyprag_translator",
    "Usage": "model.generation",
    "VectorIndex": "documents.vector_index",
    "adapter_colours": "heat_map",
    "audit": "adapters.audit",
    "draw_heat_map": "heat_map",
    "iterate": "aio",
    "load_translator": "documents.dyprag_files",
    "read_peft": "adapters.peft_format",
    "save_translator": "documents.dyprag_files",
    "train_translator": "documents.dyprag_training",
    "write_heat_map": "heat_map",
    "write_peft": "adapters.peft_format",
}

__all__ = [
    "LAG",
    "MODES",
    "PRAG",
    "AdapterError",
    "AdapterFormatError",
    "AdapterInfo",
    "AdapterLibrary",
    "AdapterMismatchError",
    "AdapterNotFoundError",
    "AdapterSource",
    "Arrow",
    "AuditReport",
    "Augmenter",
    "BusyError",
    "DeadAdapterWarning",
    "Document",
    "DocumentError",
    "DocumentStore",
    "DuplicateAdapterError",
    "DyPRAG",
    "DyPRAGSettings",
    "EvaluationError",
    "FolderReader",
    "Generated",
    "Generation",
    "GenerationError",
    "Guide",
    "IndexEntry",
    "LAGEngine",
    "LagError",
    "Latent",
    "LibraryCorruptError",
    "LibraryError",
    "LibraryLockedError",
    "MixtureSource",
    "ModelError",
    "PRAGSettings",
    "PairsFile",
    "Passage",
    "PeftAdapter",
    "Pinned",
    "Plan",
    "PlanError",
    "PolyPRAG",
    "PolyPRAGSettings",
    "PromptTooLongError",
    "QuestionAnswer",
    "Routed",
    "RoutingTrace",
    "SpectR",
    "StreamPiece",
    "SyncReport",
    "TokenLogprob",
    "ToolCall",
    "Translator",
    "UnsupportedAdapterError",
    "Usage",
    "VectorIndex",
    "adapter_colours",
    "audit",
    "draw_heat_map",
    "iterate",
    "load_translator",
    "read_peft",
    "save_translator",
    "train_translator",
    "write_heat_map",
    "write_peft",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lag_engine' has no attribute '{name}'")
    return getattr(import_module(f"lag_engine.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
