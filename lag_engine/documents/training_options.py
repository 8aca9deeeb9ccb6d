"""How stacked adapters are trained, as values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lag_engine.errors import AdapterError

Precision = Literal["bf16", "fp32"]
Optimizer = Literal["adamw", "sgd"]
Schedule = Literal["triangle", "constant"]


@dataclass(frozen=True)
class TrainingOptions:
    """How stacked adapters are trained.

    Attributes:
        rank: R.
        alpha: ``scaling = alpha / rank``.
        learning_rate: The optimiser's peak rate.
        lora_a_decay: Weight decay on lora_A, which removes what is left of its random start.
        init_scale: lora_A's start as a multiple of PEFT's (uniform in ±1/sqrt(D_in)).
        silence: Weight of the silence penalty; 0 trains as PEFT does.
        clip: Largest gradient norm per adapter; None does not clip.
        seed: Adapter ``g`` starts from seed ``seed + g``, unless seeds are given: a shared start
            would make the ``projection`` score tie between adapters.
        precision: Of the forward pass: bfloat16 by autocast, or the model's own dtype, which must
            be float32 then. The adapters and the optimiser are float32 in both.
        lora_b_decay: Weight decay on lora_B.
        optimizer: "adamw", or "sgd" without momentum. Both are elementwise, as stacking needs.
        schedule: "triangle" warms up over a tenth of the steps and descends to zero, linearly;
            "constant" keeps the peak rate.
        shared_lora_A: One lora_A, started from ``seed``, serves all adapters and is not trained.
        stop_loss: An adapter whose mean loss over ``stop_window`` steps is at most this is left as
            it is then; None trains all steps.
        stop_window: Steps between two looks at ``stop_loss``; an epoch, usually.
    """

    rank: int
    alpha: float
    learning_rate: float = 3e-3
    lora_a_decay: float = 0.0
    init_scale: float = 1.0
    silence: float = 0.0
    clip: float | None = 1.0
    seed: int = 0
    precision: Precision = "bf16"
    lora_b_decay: float = 0.0
    optimizer: Optimizer = "adamw"
    schedule: Schedule = "triangle"
    shared_lora_A: bool = False
    stop_loss: float | None = None
    stop_window: int = 1

    def __post_init__(self) -> None:
        wrong = [
            f"{name}={getattr(self, name)!r}"
            for name in ("rank", "alpha", "stop_window")
            if not getattr(self, name) > 0
        ]
        if self.clip is not None and not self.clip > 0:
            wrong.append(f"clip={self.clip!r}")
        if wrong:
            raise AdapterError(
                "Expected rank, alpha, stop_window and, if set, clip above zero",
                f"found {', '.join(wrong)}",
                "use None for no clipping and no early stop",
            )

    @property
    def scaling(self) -> float:
        """The factor of every update, as in PEFT."""
        return self.alpha / self.rank

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of a step, of ``steps`` in all."""
        if self.schedule == "constant":
            return self.learning_rate
        warmup = max(1, steps // 10)
        falling = (steps - step) / max(1, steps - warmup)
        return self.learning_rate * min((step + 1) / warmup, falling, 1.0)
