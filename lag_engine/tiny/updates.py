"""Low-rank updates added to a model's own weights for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor
from transformers import LlamaForCausalLM

Factors = dict[str, tuple[Tensor, Tensor]]
"""Module path -> lora_A (R, D_in) and lora_B (D_out, R), of a scaling of 1."""


@contextmanager
def applied(model: LlamaForCausalLM, factors: Factors) -> Iterator[None]:
    """Adds the updates to the model's weights, and takes them out again."""
    weights: dict[str, Tensor] = {p: model.get_parameter(f"{p}.weight").data for p in factors}
    before = {path: weight.clone() for path, weight in weights.items()}
    try:
        for path, (A, B) in factors.items():
            weights[path] += B @ A
        yield
    finally:
        for path, weight in before.items():
            weights[path].copy_(weight)
