"""The settings of PRAG, with the paper's values as defaults (arXiv 2501.15915)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from lag_engine.documents.target_settings import TargetSettings
from lag_engine.documents.training_options import Optimizer, Schedule, TrainingOptions


@dataclass(frozen=True)
class PRAGSettings(TargetSettings):
    """How passages become adapters; the defaults are the paper's, but for the start.

    In the paper every passage starts from one random lora_A, which makes `projection` routing over
    such adapters tie. Here each starts from a seed made of its text; `shared_start` is the paper's
    way.

    Attributes:
        learning_rate: Of the optimiser.
        epochs: Passes over a passage's sequences; the paper has 1 to 3.
        batch_size: Sequences in one step.
        weight_decay: On both factors.
        optimizer: "adamw" or "sgd".
        schedule: "constant", or "triangle": up over a tenth of the steps, then down to zero.
        clip: Largest gradient norm; None: no clipping.
        stop_loss: A passage is done after an epoch whose mean loss is at most this; None: never.
        shared_start: Every passage starts from the same lora_A.
        shared_lora_A: Every passage has the same lora_A, which is not trained.
        init_scale: lora_A's start as a multiple of PEFT's.
        **others: As for `TargetSettings`.
    """

    learning_rate: float = 3e-4
    epochs: int = 2
    batch_size: int = 1
    weight_decay: float = 0.01
    optimizer: Optimizer = "adamw"
    schedule: Schedule = "constant"
    clip: float | None = None
    stop_loss: float | None = None
    shared_start: bool = False
    shared_lora_A: bool = False
    init_scale: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._refuse_unless_positive("epochs", "batch_size")

    def training(self, model: nn.Module, *, window: int) -> TrainingOptions:
        """The options of one group's training; `window` is an epoch's number of steps."""
        return TrainingOptions(
            rank=self.rank,
            alpha=self.alpha,
            learning_rate=self.learning_rate,
            lora_a_decay=self.weight_decay,
            lora_b_decay=self.weight_decay,
            init_scale=self.init_scale,
            clip=self.clip,
            seed=self.seed,
            precision=self.forward_precision(model),
            optimizer=self.optimizer,
            schedule=self.schedule,
            shared_lora_A=self.shared_lora_A,
            stop_loss=self.stop_loss,
            stop_window=window,
        )
