"""Documents as adapters: passages, their encoders, and the training of many small LoRAs at once."""

from lag_engine.documents.passages import Passage, QuestionAnswer
from lag_engine.documents.prag import PRAG
from lag_engine.documents.prag_settings import PRAGSettings
from lag_engine.documents.training import StackedBatch, StepLosses, train_stacked
from lag_engine.documents.training_options import TrainingOptions

__all__ = [
    "PRAG",
    "PRAGSettings",
    "Passage",
    "QuestionAnswer",
    "StackedBatch",
    "StepLosses",
    "TrainingOptions",
    "train_stacked",
]
