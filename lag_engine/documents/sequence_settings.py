"""What the settings of all encoders have in common."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import nn

from lag_engine.documents.sequences import LossOn, Questions, SequenceFormat
from lag_engine.documents.training_options import Precision
from lag_engine.errors import DocumentError


@dataclass(frozen=True)
class SequenceSettings:
    """The form of the training sequences, a seed, and the precision.

    Attributes:
        loss_on: "all" tokens, or the "answer" only.
        questions: "after text": half of them, as in the paper; "alone": all of them, which small
            models need to keep an answer.
        prompt: A user's message; with `{question}`.
        prompt_with_passage: The same with `{passage}` too.
        seed: Of all that is drawn: starts, noise, order.
        precision: "bf16", "fp32", or "auto": "fp32" for a model in float32.
    """

    loss_on: LossOn = "all"
    questions: Questions = "after text"
    prompt: str = "{question}"
    prompt_with_passage: str = "Text: {passage}\n\n{question}"
    seed: int = 0
    precision: Precision | Literal["auto"] = "auto"

    def __post_init__(self) -> None:
        if "{question}" not in self.prompt or not all(
            field in self.prompt_with_passage for field in ("{question}", "{passage}")
        ):
            raise DocumentError(
                "Expected prompts with {question}, and {passage} where the passage belongs",
                f"found {self.prompt!r} and {self.prompt_with_passage!r}",
                "write the prompts of your chain with these fields",
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

    def _refuse_unless_positive(self, *names: str) -> None:
        wrong = [name for name in names if not getattr(self, name) > 0]
        if wrong:
            raise DocumentError(
                f"Expected {wrong[0]} above zero", f"found {getattr(self, wrong[0])!r}", "raise it"
            )
