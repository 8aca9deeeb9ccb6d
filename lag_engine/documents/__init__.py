"""Documents as adapters: the training of many small LoRAs at once."""

from lag_engine.documents.training import StackedBatch, StepLosses, train_stacked
from lag_engine.documents.training_options import TrainingOptions

__all__ = ["StackedBatch", "StepLosses", "TrainingOptions", "train_stacked"]
