"""The four scores are what their definitions say, summed in float32 or better."""

from __future__ import annotations

import pytest
import torch

from lag_engine.routing.scores import SCORES, arrow_scores, rerank_scores


@pytest.fixture
def x():
    return torch.randn(5, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_scores_equal_their_definitions(make_stack, x):
    stack = make_stack()
    rows = torch.arange(len(stack.names))
    A, B = stack.A(rows), stack.B(rows)
    delta = B.mT @ A  # (N, D_out, D_in)
    z = torch.einsum("nrd,td->tnr", A, x)
    expected = {
        "arrow": (x @ A[:, 0].T).abs(),
        "projection": torch.linalg.pinv(delta @ A.mT @ A).matmul(delta) @ x.T,
        "norm": torch.linalg.vector_norm(delta @ x.T, dim=1).T,
        "relative": torch.linalg.vector_norm(delta @ x.T, dim=1).T
        / torch.linalg.matrix_norm(delta),
    }
    # pinv(delta) delta is the orthogonal projection onto the row space of delta.
    expected["projection"] = torch.linalg.vector_norm(expected["projection"], dim=1).T
    for score in SCORES:
        found = rerank_scores(z, stack.singular, score)
        torch.testing.assert_close(found, expected[score], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(arrow_scores(x, stack.arrow), expected["arrow"])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("n_tokens", [1, 5])
def test_low_precision_inputs_are_summed_in_float32(dtype, n_tokens, make_stack, x):
    arrow = make_stack().arrow.float()
    low = x[:n_tokens].to(dtype)
    found = arrow_scores(low, arrow)
    assert found.dtype == torch.float32
    exact = (low.double() @ arrow.double().T).abs()
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-6)


def test_a_dead_adapter_scores_zero_by_size(make_stack):
    z, dead = torch.ones(1, 1, 3), torch.zeros(1, 1, 3)
    assert rerank_scores(z, dead, "norm").item() == 0
    assert rerank_scores(z, dead, "relative").item() == 0
    assert rerank_scores(z, dead, "projection").item() > 0


def test_only_norm_sees_the_scaling():
    z = torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(2))
    singular = torch.tensor([[2.0, 1.0]])
    for score in SCORES:
        small, large = (rerank_scores(z, singular * size, score) for size in (1.0, 10.0))
        torch.testing.assert_close(large, small * (10 if score == "norm" else 1))
