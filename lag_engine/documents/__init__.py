"""Documents as adapters: the training of many small LoRAs at once."""

from lag_engine.documents.training import (
    StackedBatch,
    StepLosses,
    TrainingOptions,
    train_stacked,
)

__all__ = ["StackedBatch", "StepLosses", "TrainingOptions", "train_stacked"]
