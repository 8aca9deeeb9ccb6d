"""Logits equal an independent float64 evaluation of the published equations.

The evaluation shares no code with the package: dense updates, their full SVD, a loop over tokens,
and hooks on a float64 copy of the base model.
"""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch

from lag_engine.model.bank import AdapterBank
from lag_engine.model.surgery import install
from lag_engine.routing import REFERENCE, Plan

SCORES = ("arrow", "projection", "norm", "relative")


class Equations:
    """methods.md sections 1-3, one token at a time."""

    def __init__(self, adapters, mode, *, retrieve_k=20, score="projection", top_k=1, tau=1.0):
        self.adapters, self.mode, self.score = adapters, mode, score
        self.retrieve_k, self.top_k, self.tau = retrieve_k, top_k, tau
        self.spectra = {}
        self.closest = float("inf")

    def spectrum(self, adapter, module):
        """delta W, its singular values and right vectors, cut to the rank of the update."""
        key = (adapter.name, module)
        if key not in self.spectra:
            lora = adapter.modules[module]
            rank = min(*lora.lora_A.shape, lora.lora_B.shape[0])
            _, S, Vh = torch.linalg.svd(lora.delta, full_matrices=False)
            self.spectra[key] = (lora.delta, S[:rank], Vh[:rank])
        return self.spectra[key]

    def value(self, x, delta, S, Vh):
        """The reranking score of one adapter for one input."""
        return {
            "arrow": (Vh[0] @ x).abs(),
            "projection": (Vh @ x).norm(),
            "norm": (delta @ x).norm(),
            "relative": (delta @ x).norm() / delta.norm(),
        }[self.score]

    def largest(self, values, k):
        """The places of the k largest values; notes how close the decision was."""
        order = sorted(range(len(values)), key=lambda i: -values[i])
        if k < len(order):
            self.closest = min(self.closest, float(values[order[k - 1]] - values[order[k]]))
        return order[:k]

    def update(self, x, module, kind):
        """The update of one token's output from one library."""
        members = [a for a in self.adapters if a.kind == kind and module in a.modules]
        spectra = [self.spectrum(a, module) for a in members]
        if not spectra:
            return 0.0
        arrow = [(Vh[0] @ x).abs() for _, _, Vh in spectra]
        if self.mode == "arrow":
            chosen = self.largest(arrow, self.top_k)
            weights = torch.softmax(torch.stack([arrow[i] for i in chosen]) / self.tau, 0)
            return sum(w * (spectra[i][0] @ x) for w, i in zip(weights, chosen, strict=True))
        candidates = range(len(spectra))
        if self.mode == "lag":
            candidates = self.largest(arrow, self.retrieve_k)
        values = [self.value(x, *spectra[i]) for i in candidates]
        best = [candidates[i] for i in self.largest(values, self.top_k)]
        return sum(spectra[i][0] @ x for i in best) / len(best)

    def logits(self, model, ids):
        """Logits of a float64 copy of the model with every covered module hooked."""
        model = deepcopy(model).double()
        covered = {module for a in self.adapters for module in a.modules}

        def hook(name):
            def add(module, args, out):
                x = args[0]
                rows = [
                    self.update(token, name, "task") + self.update(token, name, "knowledge")
                    for token in x.reshape(-1, x.shape[-1])
                ]
                return out + torch.stack(rows).view_as(out)

            return add

        for name, module in model.named_modules():
            if name in covered:
                module.register_forward_hook(hook(name))
        with torch.no_grad():
            return model(ids).logits


def routed_logits(model, library, plan, ids, **options):
    with (
        install(model, AdapterBank(library), **options) as surgery,
        surgery.activate([plan]),
        torch.no_grad(),
    ):
        return model(ids).logits


CASES = [
    ("arrow", {}, {}),
    ("arrow", {"top_k": 3, "temperature": 0.5}, {"top_k": 3, "tau": 0.5}),
    ("spectr", {"top_k": 2}, {"top_k": 2}),
    *[("spectr", {"score": score}, {"score": score}) for score in SCORES],
    *[("lag", {"score": s, "retrieve_k": 3}, {"score": s, "retrieve_k": 3}) for s in SCORES],
]


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2"])
@pytest.mark.parametrize(("mode", "ours", "theirs"), CASES)
def test_logits_equal_the_equations(
    family, mode, ours, theirs, make_model, make_adapters, memory_library, token_ids
):
    adapters, ids = make_adapters(family), token_ids(2, 7)
    equations = Equations(adapters, mode, **theirs)
    model = make_model(family, dtype=torch.float64)
    expected = equations.logits(model, ids)
    assert not torch.allclose(expected, model(ids).logits, atol=1e-2)

    exact = routed_logits(
        model, memory_library(adapters, torch.float64), Plan.from_mode(mode, **ours), ids
    )
    torch.testing.assert_close(exact, expected, rtol=1e-9, atol=1e-9)

    assert equations.closest > 1e-5, "a near tie: float32 may decide otherwise; choose a seed"
    single = routed_logits(
        model.float(), memory_library(adapters), Plan.from_mode(mode, **ours), ids
    )
    torch.testing.assert_close(single, expected.float(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mode", ["arrow", "spectr", "lag"])
def test_reference_form_equals_grouped_form(
    mode, make_model, make_adapters, memory_library, token_ids
):
    model, library = make_model(dtype=torch.float64), memory_library(make_adapters(), torch.float64)
    plan, ids = Plan.from_mode(mode, retrieve_k=3), token_ids(3, 8)
    torch.testing.assert_close(
        routed_logits(model, library, plan, ids, form=REFERENCE),
        routed_logits(model, library, plan, ids),
        rtol=1e-10,
        atol=1e-10,
    )
