"""The settings of Poly-PRAG (arXiv 2511.17044)."""

from __future__ import annotations

from dataclasses import dataclass

from lag_engine.adapters.mixtures import MAX_LATENTS
from lag_engine.documents.passages import content_hash
from lag_engine.documents.target_settings import TargetSettings
from lag_engine.errors import DocumentError


@dataclass(frozen=True)
class PolyPRAGSettings(TargetSettings):
    """How a collection is encoded by latent adapters that its passages mix.

    About 20 latent adapters, and a sparse mixture for each passage, are the paper's. Its router,
    rank and rates could not be read; the router is Polytropon's, as PEFT has it (`PolyConfig`),
    and the rest is PRAG's.

    Attributes:
        n_latents: Latent adapters of the collection, M.
        top_k: How many of them a passage mixes in a module.
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
        **others: As for `TargetSettings`.
    """

    n_latents: int = 20
    top_k: int = 4
    learning_rate: float = 3e-4
    routing_rate: float = 0.5
    epochs: int = 2
    routing_epochs: int = 16
    step_passages: int = 8
    batch_size: int = 1
    weight_decay: float = 0.01
    temperature: float = 1.0
    spread: float = 3.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._refuse_unless_positive(
            *("n_latents", "top_k", "epochs", "routing_epochs"),
            *("step_passages", "batch_size", "temperature"),
        )
        if self.n_latents > MAX_LATENTS or self.top_k > self.n_latents:
            raise DocumentError(
                f"Expected at most {MAX_LATENTS} latent adapters, and top_k within their number",
                f"found {self.n_latents} latent adapters and top_k {self.top_k}",
                "lower what is too high",
            )

    @property
    def scaling(self) -> float:
        """The factor of every latent adapter's update, as in PEFT."""
        return self.alpha / self.rank

    @property
    def fingerprint(self) -> str:
        """A short hash of what latent adapters depend on; they note it."""
        told = self.told()
        del told["routing_epochs"]
        return content_hash(told)[:16]
