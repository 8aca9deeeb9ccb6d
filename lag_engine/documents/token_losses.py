"""The loss on tokens of several passages in one batch, each passage's by itself."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lag_engine.documents.batches import StackedBatch
from lag_engine.documents.training_options import Precision


class KeptTokens(NamedTuple):
    """The predictions of a batch that are to be learnt.

    Attributes:
        logits: (n, V); float32.
        targets: (n,).
        weights: Of each in its passage's loss (n,).
        owners: The passage of each (n,).
        totals: Sum of a passage's weights (G,).
    """

    logits: Tensor
    targets: Tensor
    weights: Tensor
    owners: Tensor
    totals: Tensor

    def mean(self, values: Tensor) -> Tensor:
        """The weighted mean of values (n,) over each passage's tokens; (G,)."""
        sums = values.new_zeros(len(self.totals)).index_add(0, self.owners, values * self.weights)
        return sums / self.totals.clamp(min=1e-6)

    def losses(self) -> Tensor:
        """Each passage's mean cross entropy (G,)."""
        return self.mean(cross_entropy(self.logits, self.targets, reduction="none"))


def predicted(model: nn.Module, batch: StackedBatch, precision: Precision) -> KeptTokens:
    """Runs the model on a batch (G, B, T) and keeps what has weight.

    Args:
        model: A causal LM.
        batch: Right-padded; its rows are one passage's after another's.
        precision: Of the forward pass.
    """
    count, rows, length = batch.ids.shape
    device = model.get_input_embeddings().weight.device  # type: ignore[operator]
    ids = batch.ids.to(device).reshape(count * rows, length)
    weights = batch.weights.to(device).reshape(count * rows, length)[:, 1:]
    kept = weights > 0  # (G * B, T - 1)
    with torch.autocast(ids.device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
        decoder = model.get_decoder()  # type: ignore[operator]
        hidden = decoder(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
        logits = model.get_output_embeddings()(hidden[kept])  # type: ignore[operator]
    passage = torch.arange(count, device=device).repeat_interleave(rows)  # (G * B,)
    owners = passage[:, None].expand_as(kept)[kept]
    totals = weights.reshape(count, -1).sum(1)
    return KeptTokens(logits.float(), ids[:, 1:][kept], weights[kept], owners, totals)
