"""The settings of PRAG, with the paper's values as defaults (arXiv 2501.15915)."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import nn

from lag_engine.adapters.base_model import describe_base
from lag_engine.documents.sequences import LossOn, Questions, SequenceFormat
from lag_engine.documents.training_options import Optimizer, Precision, Schedule, TrainingOptions
from lag_engine.errors import AdapterMismatchError, DocumentError

_LAYER = re.compile(r"\.(\d+)\.")


@dataclass(frozen=True)
class PRAGSettings:
    """How passages become adapters; the defaults are the paper's, but for the start.

    In the paper every passage starts from one random lora_A, which makes `projection` routing over
    such adapters tie. Here each starts from a seed made of its text; `shared_start` is the paper's
    way.

    Attributes:
        rank: R.
        alpha: `scaling = alpha / rank`.
        targets: Ends of dotted module paths, as in PEFT.
        layers: Of which layers; None: of all.
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
        loss_on: "all" tokens, or the "answer" only.
        questions: "after text": half of them, as in the paper; "alone": all of them, which small
            models need to keep an answer.
        prompt: A user's message; with `{question}`.
        prompt_with_passage: The same with `{passage}` too.
        seed: Of all starts.
        precision: "bf16", "fp32", or "auto": "fp32" for a model in float32.
    """

    rank: int = 2
    alpha: float = 32.0
    targets: tuple[str, ...] = ("gate_proj", "up_proj", "down_proj")
    layers: tuple[int, ...] | None = None
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
    loss_on: LossOn = "all"
    questions: Questions = "after text"
    prompt: str = "{question}"
    prompt_with_passage: str = "Text: {passage}\n\n{question}"
    seed: int = 0
    precision: Precision | Literal["auto"] = "auto"

    def __post_init__(self) -> None:
        wrong = [n for n in ("rank", "alpha", "epochs", "batch_size") if not getattr(self, n) > 0]
        if wrong:
            raise DocumentError(
                f"Expected {wrong[0]} above zero",
                f"found {getattr(self, wrong[0])!r}",
                "leave it out for the paper's value",
            )
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

    def training(self, model: nn.Module, *, window: int) -> TrainingOptions:
        """The options of one group's training; `window` is an epoch's number of steps."""
        is_float32 = next(model.parameters()).dtype == torch.float32
        precision: Precision = "fp32" if is_float32 else "bf16"
        return TrainingOptions(
            rank=self.rank,
            alpha=self.alpha,
            learning_rate=self.learning_rate,
            lora_a_decay=self.weight_decay,
            lora_b_decay=self.weight_decay,
            init_scale=self.init_scale,
            clip=self.clip,
            seed=self.seed,
            precision=precision if self.precision == "auto" else self.precision,
            optimizer=self.optimizer,
            schedule=self.schedule,
            shared_lora_A=self.shared_lora_A,
            stop_loss=self.stop_loss,
            stop_window=window,
        )

    def target_paths(self, model: nn.Module) -> list[str]:
        """Full dotted paths of the modules to adapt, in the model's order.

        Raises:
            AdapterMismatchError: A target is the end of no linear module's path.
        """
        linears = _linears(model)
        names = [name for name in linears if self._has_layer(name)]
        for target in self.targets or ("",):
            if not any(_ends_with(name, target) for name in names):
                kinds = ", ".join(sorted({name.rpartition(".")[2] for name in linears}))
                where = f" in layers {self.layers}" if self.layers is not None else ""
                raise AdapterMismatchError(
                    f"Expected linear modules of {type(model).__name__} whose paths end in "
                    f"{target!r}",
                    f"found none{where}; its linear modules are {kinds or 'of no usable kind'}",
                    "name the ends of paths as in model.named_modules()",
                )
        return [name for name in names if any(_ends_with(name, t) for t in self.targets)]

    def _has_layer(self, name: str) -> bool:
        found = _LAYER.search(name)
        return self.layers is None or (found is not None and int(found[1]) in self.layers)


def _linears(model: nn.Module) -> list[str]:
    """The paths of what can be adapted: GPT-2's Conv1D and the output embeddings cannot."""
    base = describe_base(model)  # type: ignore[arg-type]
    embeddings = getattr(model, "get_output_embeddings", lambda: None)()
    excluded = {name for name, module in model.named_modules() if module is embeddings}
    return [name for name in base.shapes or () if name not in excluded | base.transposed]


def _ends_with(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")
