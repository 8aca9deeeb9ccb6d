"""The settings of DyPRAG's translator (arXiv 2503.23895)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import nn

from lag_engine.documents.sequences import LossOn, Questions, SequenceFormat
from lag_engine.documents.training_options import Precision
from lag_engine.errors import DocumentError


@dataclass(frozen=True)
class DyPRAGSettings:
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
        loss_on: "all" tokens, or the "answer" only.
        questions: "after text": half of them, as in the paper; "alone": all of them, which small
            models need to keep an answer.
        prompt: A user's message; with `{question}`.
        prompt_with_passage: The same with `{passage}` too.
        seed: Of the nets' start and of the order.
        precision: "bf16", "fp32", or "auto": "fp32" for a model in float32.
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
    loss_on: LossOn = "all"
    questions: Questions = "after text"
    prompt: str = "{question}"
    prompt_with_passage: str = "Text: {passage}\n\n{question}"
    seed: int = 0
    precision: Precision | Literal["auto"] = "auto"

    def __post_init__(self) -> None:
        counts = ("width", "alpha", "epochs", "step_passages", "batch_size")
        wrong = [name for name in counts if not getattr(self, name) > 0]
        if wrong:
            raise DocumentError(
                f"Expected {wrong[0]} above zero", f"found {getattr(self, wrong[0])!r}", "raise it"
            )

    @property
    def style(self) -> SequenceFormat:
        """The form of the training sequences."""
        return SequenceFormat(self.prompt, self.prompt_with_passage, self.loss_on, self.questions)

    def told(self) -> dict[str, Any]:
        """The settings as JSON can hold them."""
        return asdict(self)

    def forward_precision(self, model: nn.Module) -> Precision:
        """The precision of the forward pass on this model."""
        if self.precision != "auto":
            return self.precision
        return "fp32" if next(model.parameters()).dtype == torch.float32 else "bf16"
