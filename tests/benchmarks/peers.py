"""Other ways to route among the same adapters, as changes to a model of their own.

PEFT's Arrow is PEFT's own forward pass. Its loading takes time quadratic in the number of adapters,
so the factors are put into its dictionaries, and exact arrow vectors into its buffers. What is
called mttl-style is our own writing of mttl's computation: arrow scores of all, a softmax over the
top, A and B of those stacked, mixed apart and applied; mttl itself is not run.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from common import SCALING, random_adapter, same_weights
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from lag_engine import PeftAdapter, write_peft
from lag_engine.adapters import to_spectral


def peft_arrow(
    model: LlamaForCausalLM, adapters: Sequence[PeftAdapter], top_k: int
) -> LlamaForCausalLM:
    """Returns a model over the same weights under PEFT's Arrow."""
    from peft import ArrowConfig, create_arrow_model

    inner = same_weights(model)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "one"
        write_peft(path, random_adapter(model, 0))
        create_arrow_model(inner, [str(path)], ArrowConfig(top_k=min(top_k, len(adapters))))
    for name, module in inner.named_modules():
        if hasattr(module, "lora_arrow"):
            _inject(module, [adapter.modules[name] for adapter in adapters])
    return inner.eval()


def mttl_arrow(
    model: LlamaForCausalLM, adapters: Sequence[PeftAdapter], top_k: int
) -> LlamaForCausalLM:
    """Returns a model over the same weights under mttl's computation."""
    inner = same_weights(model)
    for name in adapters[0].modules:
        parent, _, child = name.rpartition(".")
        parts = [adapter.modules[name] for adapter in adapters]
        base = inner.get_submodule(name)
        setattr(inner.get_submodule(parent), child, _Mttl(base, parts, min(top_k, len(parts))))
    return inner.eval()


def _inject(layer: nn.Module, parts: Sequence) -> None:
    names = [f"task_{i}" for i in range(len(parts))]
    arrow = layer.lora_arrow["arrow_router"]
    dtype = layer.base_layer.weight.dtype
    for name, part in zip(names, parts, strict=True):
        layer.lora_A[name], layer.lora_B[name] = (
            _linear(factor.to(dtype)) for factor in (part.lora_A, part.lora_B)
        )
        layer.scaling[name] = part.scaling
    arrow.task_adapter_names = names
    arrow.register_buffer("prototypes", _arrow_vectors(parts).to(dtype), persistent=False)
    arrow._protos_ready = True


def _linear(weight: Tensor) -> nn.Linear:
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    made.weight = nn.Parameter(weight, requires_grad=False)
    return made


def _arrow_vectors(parts: Sequence) -> Tensor:
    return torch.stack([to_spectral(*part).A[0].float() for part in parts])


class _Mttl(nn.Module):
    def __init__(self, base: nn.Linear, parts: Sequence, top_k: int) -> None:
        super().__init__()
        self.base, self.top_k = base, top_k
        dtype = base.weight.dtype
        self.prototypes = _arrow_vectors(parts).to(dtype)  # (N, D_in)
        self.A = [part.lora_A.T.contiguous().to(dtype) for part in parts]  # (D_in, R) each
        self.B = [part.lora_B.T.contiguous().to(dtype) for part in parts]  # (R, D_out) each

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
        return self.base(x) + SCALING * torch.einsum("btr,btrd->btd", z, B)
