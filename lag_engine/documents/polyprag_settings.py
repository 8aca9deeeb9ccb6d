"""The settings of Poly-PRAG (arXiv 2511.17044)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import nn

from lag_engine.adapters.mixtures import MAX_LATENTS
from lag_engine.documents.passages import content_hash
from lag_engine.documents.prag_settings import PRAGSettings
from lag_engine.documents.sequences import LossOn, Questions, SequenceFormat
from lag_engine.documents.training_options import Precision
from lag_engine.errors import DocumentError


@dataclass(frozen=True)
class PolyPRAGSettings:
    """How a collection is encoded by latent adapters that its passages mix.

    About 20 latent adapters, and a sparse mixture for each passage, are the paper's. Its router,
    rank and rates could not be read; the router is Polytropon's, as PEFT has it (`PolyConfig`),
    and the rest is PRAG's.

    Attributes:
        n_latents: Latent adapters of the collection, M.
        top_k: How many of them a passage mixes in a module.
        rank: R of each latent adapter.
        alpha: `scaling = alpha / rank`.
        targets: Ends of dotted module paths, as in PEFT.
        layers: Of which layers; None: of all.
        learning_rate: Of the latent adapters.
        routing_rate: Of the passages' logits.
        epochs: Passes over the collection while the latent adapters are trained.
        routing_epochs: Passes over a passage that comes later; only its logits are trained.
        step_passages: Passages in one step.
        batch_size: Sequences of each in one step.
        weight_decay: On the latent adapters' factors.
        temperature: Of the relaxed Bernoulli noise on the logits.
        spread: Standard deviation of the logits' start. Passages that start apart mix different
            latent adapters before anything is learnt; Polytropon's all start at nearly zero.
        loss_on: "all" tokens, or the "answer" only.
        questions: "after text": half of them, as in the paper; "alone": all of them, which small
            models need to keep an answer.
        prompt: A user's message; with `{question}`.
        prompt_with_passage: The same with `{passage}` too.
        seed: Of all starts and of the noise.
        precision: "bf16", "fp32", or "auto": "fp32" for a model in float32.
    """

    n_latents: int = 20
    top_k: int = 4
    rank: int = 2
    alpha: float = 32.0
    targets: tuple[str, ...] = ("gate_proj", "up_proj", "down_proj")
    layers: tuple[int, ...] | None = None
    learning_rate: float = 3e-4
    routing_rate: float = 0.5
    epochs: int = 2
    routing_epochs: int = 16
    step_passages: int = 8
    batch_size: int = 1
    weight_decay: float = 0.01
    temperature: float = 1.0
    spread: float = 3.0
    loss_on: LossOn = "all"
    questions: Questions = "after text"
    prompt: str = "{question}"
    prompt_with_passage: str = "Text: {passage}\n\n{question}"
    seed: int = 0
    precision: Precision | Literal["auto"] = "auto"

    def __post_init__(self) -> None:
        counts = ("n_latents", "top_k", "epochs", "routing_epochs", "step_passages", "temperature")
        wrong = [name for name in counts if not getattr(self, name) > 0]
        if wrong:
            raise DocumentError(
                f"Expected {wrong[0]} above zero", f"found {getattr(self, wrong[0])!r}", "raise it"
            )
        if self.n_latents > MAX_LATENTS or self.top_k > self.n_latents:
            raise DocumentError(
                f"Expected at most {MAX_LATENTS} latent adapters, and top_k within their number",
                f"found {self.n_latents} latent adapters and top_k {self.top_k}",
                "lower what is too high",
            )
        _ = self._as_prag

    @property
    def scaling(self) -> float:
        """The factor of every latent adapter's update, as in PEFT."""
        return self.alpha / self.rank

    @property
    def style(self) -> SequenceFormat:
        """The form of the training sequences."""
        return self._as_prag.style

    @property
    def fingerprint(self) -> str:
        """A short hash of what latent adapters depend on; they note it."""
        told = self.told()
        del told["routing_epochs"]
        return content_hash(told)[:16]

    def told(self) -> dict[str, Any]:
        """The settings as JSON can hold them."""
        return asdict(self)

    def target_paths(self, model: nn.Module) -> list[str]:
        """Full dotted paths of the modules to adapt; raises AdapterMismatchError."""
        return self._as_prag.target_paths(model)

    def forward_precision(self, model: nn.Module) -> Precision:
        """The precision of the forward pass on this model."""
        if self.precision != "auto":
            return self.precision
        return "fp32" if next(model.parameters()).dtype == torch.float32 else "bf16"

    @property
    def _as_prag(self) -> PRAGSettings:
        """What both methods have in common, with PRAG's checks."""
        return PRAGSettings(
            rank=self.rank,
            alpha=self.alpha,
            targets=self.targets,
            layers=self.layers,
            batch_size=self.batch_size,
            loss_on=self.loss_on,
            questions=self.questions,
            prompt=self.prompt,
            prompt_with_passage=self.prompt_with_passage,
        )
