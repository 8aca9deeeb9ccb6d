"""The settings of DyPRAG's translator (arXiv 2503.23895)."""

from __future__ import annotations

from dataclasses import dataclass

from lag_engine.documents.sequence_settings import SequenceSettings


@dataclass(frozen=True)
class DyPRAGSettings(SequenceSettings):
    """How a translator is trained; width and the losses' weights are the paper's.

    Rank and target modules are those of the PRAG adapters it learns from.

    Attributes:
        width: Of the hidden layer of every net.
        alpha: `scaling = alpha / rank` of what is generated.
        lm_weight: Of the loss on tokens under the generated adapter.
        kl_weight: Of the divergence from the PRAG adapter's predictions.
        mse_weight: Of the squared difference from the PRAG adapter's update.
        learning_rate: Of AdamW.
        weight_decay: On all weights of the nets.
        clip: Largest gradient norm; None: no clipping.
        epochs: Passes over the passages.
        step_passages: Passages in one step.
        batch_size: Sequences of each in one step.
        **others: As for `SequenceSettings`.
    """

    width: int = 32
    alpha: float = 32.0
    lm_weight: float = 1.0
    kl_weight: float = 0.01
    mse_weight: float = 100.0
    learning_rate: float = 5e-4
    weight_decay: float = 0.01
    clip: float | None = 1.0
    epochs: int = 1
    step_passages: int = 4
    batch_size: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        self._refuse_unless_positive("width", "alpha", "epochs", "step_passages", "batch_size")
