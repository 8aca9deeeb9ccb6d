"""One forward pass without generating: logits, and the log-probability of a continuation."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import torch

from lag_engine.errors import GenerationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor
    from transformers import PreTrainedModel


def forward_logits(
    model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor | None = None
) -> Tensor:
    """Logits at every position, positions counted from each row's first token.

    Args:
        model: any decoder of transformers, routed or not.
        input_ids: (B, T).
        attention_mask: 0 at padding; (B, T); None: no padding.

    Returns:
        Logits; (B, T, V); meaningless at padding.
    """
    input_ids = input_ids.to(model.device)
    options: dict[str, Any] = {"use_cache": False}
    if attention_mask is not None:
        mask = attention_mask.to(model.device)
        options["attention_mask"] = mask
        if _takes(model, "position_ids"):
            options["position_ids"] = (mask.long().cumsum(-1) - 1).clamp_min(0)  # (B, T)
    logits: Tensor = model(input_ids=input_ids, **options).logits
    return logits


def log_probability(
    model: PreTrainedModel, prompt_ids: Sequence[int], continuation_ids: Sequence[int]
) -> float:
    """The natural log-probability of the continuation after the prompt, summed in float32.

    Raises:
        GenerationError: the continuation is empty.
    """
    n = len(continuation_ids)
    if n == 0:
        raise GenerationError(
            "Expected a continuation of at least one token",
            "it has none",
            "Pass the text whose probability is asked for",
        )
    ids = torch.tensor([[*prompt_ids, *continuation_ids]], device=model.device)  # (1, T)
    options = {"logits_to_keep": n + 1} if _takes(model, "logits_to_keep") else {}
    logits = model(input_ids=ids, use_cache=False, **options).logits[0, -n - 1 : -1]  # (n, V)
    each = logits.float().log_softmax(-1).gather(-1, ids[0, -n:, None])  # (n, 1)
    return float(each.sum())


def _takes(model: PreTrainedModel, argument: str) -> bool:
    return argument in inspect.signature(model.forward).parameters
