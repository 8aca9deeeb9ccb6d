"""Other ways to route among the same adapters, as changes to a model of their own.

PEFT's Arrow is PEFT's own forward pass. Its loading takes time quadratic in the number of adapters,
so the factors are put into its dictionaries, and exact arrow vectors into its buffers. What is
called mttl-style is our own writing of mttl's computation: arrow scores of all, a softmax over the
top, A and B of those stacked, mixed apart and applied; mttl itself is in `mttl_peer.py`. Layers
that share factors in a `Part` share them here.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from common import same_weights
from libraries import FirstRows, Part
from mttl_peer import mttl_arrow
from targets import MTTL, MTTL_MIX, MTTL_STYLE, PEFT
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from lag_engine import PeftAdapter, write_peft
from lag_engine.adapters import LoraModule


def peft_arrow(model: LlamaForCausalLM, part: Part, top_k: int) -> LlamaForCausalLM:
    """Returns a model over the same weights under PEFT's Arrow."""
    from peft import ArrowConfig, create_arrow_model

    inner = same_weights(model)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "one"
        write_peft(path, _placeholder(part))
        create_arrow_model(inner, [str(path)], ArrowConfig(top_k=top_k))

    @cache
    def linear_pairs(stack: FirstRows) -> list[tuple[nn.Linear, nn.Linear]]:
        return [(_linear(A), _linear(B)) for A, B in stack.factors(model.dtype)]

    for name, module in inner.named_modules():
        if hasattr(module, "lora_arrow"):
            stack = part.stack(name)
            _inject(module, linear_pairs(stack), stack.arrow.to(model.dtype))
    return inner.eval()


def mttl_style_arrow(model: LlamaForCausalLM, part: Part, top_k: int) -> LlamaForCausalLM:
    """Returns a model over the same weights under mttl's computation."""
    inner = same_weights(model)

    @cache
    def factors(stack: FirstRows) -> list[tuple[Tensor, Tensor]]:
        return [(A.T.contiguous(), B.T.contiguous()) for A, B in stack.factors(model.dtype)]

    for name in part.modules():
        parent, _, child = name.rpartition(".")
        stack, base = part.stack(name), inner.get_submodule(name)
        routed = _Mttl(base, stack.arrow.to(model.dtype), factors(stack), top_k)
        setattr(inner.get_submodule(parent), child, routed)
    return inner.eval()


OURS = {PEFT: peft_arrow, MTTL_STYLE: mttl_style_arrow}
"""Those that run with what is installed here."""

OF_MTTL = {MTTL: False, MTTL_MIX: True}
"""Those that need mttl, and whether they mix outputs."""


def peer_of(name: str, mttl: Path | None) -> Callable[[LlamaForCausalLM, Part, int], nn.Module]:
    """Returns what makes a peer of a model, over a part, with so many adapters for a token.

    Args:
        name: one of `OURS` or `OF_MTTL`.
        mttl: a checkout of mttl; only for those `OF_MTTL`.
    """
    if name in OURS:
        return OURS[name]
    assert mttl is not None
    return partial(mttl_arrow, checkout=mttl, mixes_outputs=OF_MTTL[name])


def _placeholder(part: Part) -> PeftAdapter:
    return PeftAdapter(
        {
            name: LoraModule(torch.ones(1, width.d_in), torch.ones(width.d_out, 1), 1.0)
            for name, width in part.modules().items()
        }
    )


def _inject(layer: Any, pairs: list[tuple[nn.Linear, nn.Linear]], arrow: Tensor) -> None:
    names = [f"task_{i}" for i in range(len(pairs))]
    router = layer.lora_arrow["arrow_router"]
    for name, (A, B) in zip(names, pairs, strict=True):
        layer.lora_A[name], layer.lora_B[name] = A, B
        layer.scaling[name] = 1.0  # alpha is in the library's factors
    router.task_adapter_names = names
    router.register_buffer("prototypes", arrow, persistent=False)
    router._protos_ready = True


def _linear(weight: Tensor) -> nn.Linear:
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    made.weight = nn.Parameter(weight, requires_grad=False)
    return made


class _Mttl(nn.Module):
    def __init__(
        self, base: nn.Module, arrow: Tensor, factors: list[tuple[Tensor, Tensor]], top_k: int
    ) -> None:
        super().__init__()
        self.base, self.top_k = base, top_k
        self.prototypes = arrow  # (N, D_in)
        self.A = [A for A, _ in factors]  # (D_in, R) each
        self.B = [B for _, B in factors]  # (R, D_out) each

    def forward(self, x: Tensor) -> Tensor:
        top = (x @ self.prototypes.T).abs().topk(self.top_k, dim=-1)
        weights = torch.softmax(top.values.float(), dim=-1).to(x)  # (B, T, K)
        used, index = top.indices.unique(return_inverse=True)
        A = torch.stack([self.A[i] for i in used.tolist()])  # (U, D_in, R)
        B = torch.stack([self.B[i] for i in used.tolist()])
        mix = x.new_zeros((*x.shape[:-1], len(used))).scatter_(-1, index, weights)
        A = torch.einsum("btu,udr->btdr", mix, A)
        B = torch.einsum("btu,urd->btrd", mix, B)
        z = torch.einsum("btd,btdr->btr", x, A)
        out: Tensor = self.base(x)
        return out + torch.einsum("btr,btrd->btd", z, B)
