"""Documents as adapters: passages, their encoders, and the record of what was encoded."""

from lag_engine.documents.augment import AugmentChain, Augmenter
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
from lag_engine.documents.splitting import split_text
from lag_engine.documents.store import DocumentStore, SyncReport
from lag_engine.documents.training import StackedBatch, StepLosses, train_stacked
from lag_engine.documents.training_options import TrainingOptions
from lag_engine.documents.vector_index import IndexEntry, VectorIndex

__all__ = [
    "PRAG",
    "AugmentChain",
    "Augmenter",
    "Document",
    "DocumentStore",
    "DyPRAG",
    "DyPRAGSettings",
    "FolderReader",
    "IndexEntry",
    "PRAGSettings",
    "PairsFile",
    "Passage",
    "PolyPRAG",
    "PolyPRAGSettings",
    "QuestionAnswer",
    "StackedBatch",
    "StepLosses",
    "SyncReport",
    "TrainingOptions",
    "Translator",
    "VectorIndex",
    "load_translator",
    "save_translator",
    "split_text",
    "train_stacked",
    "train_translator",
]
