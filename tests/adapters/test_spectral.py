"""The spectral form against the dense update it stands for."""

from __future__ import annotations

import math

import pytest
import torch

from lag_engine.adapters import rebuild, to_spectral, to_spectral_batched, truncate


def random_factors(rank: int, d_in: int, d_out: int, *, seed: int = 0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    lora_A = torch.randn(rank, d_in, generator=generator).to(dtype)
    lora_B = torch.randn(d_out, rank, generator=generator).to(dtype)
    return lora_A, lora_B


SHAPES = [(1, 8, 8), (4, 16, 12), (4, 12, 40), (12, 8, 16), (8, 16, 6)]


@pytest.mark.parametrize(("rank", "d_in", "d_out"), SHAPES)
def test_the_form_rebuilds_the_scaled_update(rank, d_in, d_out):
    lora_A, lora_B = random_factors(rank, d_in, d_out, dtype=torch.float64)
    form = to_spectral(lora_A, lora_B, 0.7, dtype=torch.float64)
    torch.testing.assert_close(rebuild(form), 0.7 * lora_B @ lora_A)


@pytest.mark.parametrize(("rank", "d_in", "d_out"), SHAPES)
def test_rows_of_a_are_orthonormal_and_b_carries_the_singular_values(rank, d_in, d_out):
    form = to_spectral(*random_factors(rank, d_in, d_out), 2.0, dtype=torch.float64)
    n_rows = min(rank, d_in, d_out)
    assert form.A.shape == (n_rows, d_in)
    assert form.B.shape == (n_rows, d_out)
    torch.testing.assert_close(form.A @ form.A.T, torch.eye(n_rows, dtype=torch.float64))
    torch.testing.assert_close(form.B @ form.B.T, form.singular.square().diag())
    assert (form.singular.diff() <= 0).all()
    assert (form.singular >= 0).all()


def test_the_arrow_vector_is_the_input_direction_that_is_amplified_most():
    lora_A, lora_B = random_factors(4, 16, 12, dtype=torch.float64)
    form = to_spectral(lora_A, lora_B, 1.5, dtype=torch.float64)
    _, singular, v = torch.linalg.svd(1.5 * lora_B @ lora_A)
    torch.testing.assert_close((form.A[0] @ v[0]).abs(), torch.ones((), dtype=torch.float64))
    torch.testing.assert_close(form.singular, singular[:4])


def test_batched_equals_one_by_one():
    pairs = [random_factors(3, 10, 14, seed=seed) for seed in range(5)]
    scalings = torch.tensor([1.0, 0.5, 2.0, -1.0, 3.0])
    batched = to_spectral_batched(
        torch.stack([a for a, _ in pairs]), torch.stack([b for _, b in pairs]), scalings
    )
    for index, (lora_A, lora_B) in enumerate(pairs):
        expected = float(scalings[index]) * lora_B @ lora_A
        torch.testing.assert_close(batched.B[index].mT @ batched.A[index], expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_half_precision_factors_lose_nothing_on_the_way_in(dtype):
    lora_A, lora_B = random_factors(4, 16, 12, dtype=dtype)
    form = to_spectral(lora_A, lora_B, 2.0, dtype=torch.float64)
    torch.testing.assert_close(rebuild(form), 2.0 * lora_B.double() @ lora_A.double())


def test_a_wide_spectrum_keeps_orthonormal_directions():
    u, v = (torch.linalg.qr(torch.randn(20, 4, dtype=torch.float64)).Q for _ in range(2))
    spectrum = torch.tensor([1.0, 1e-3, 1e-6, 1e-9], dtype=torch.float64)
    form = to_spectral(v.T, u * spectrum, 1.0, dtype=torch.float64)
    torch.testing.assert_close(form.singular, spectrum, rtol=1e-6, atol=0)
    torch.testing.assert_close(form.A @ form.A.T, torch.eye(4, dtype=torch.float64))


@pytest.mark.parametrize("condition", [1.0, 9e3, 1.1e4, 1e8])
def test_an_ill_conditioned_neighbour_costs_no_exactness(condition):
    u, v = (torch.linalg.qr(torch.randn(20, 3, dtype=torch.float64)).Q for _ in range(2))
    spectrum = torch.tensor([1.0, 0.5, 1 / condition], dtype=torch.float64)
    plain_A, plain_B = random_factors(3, 20, 20, dtype=torch.float64)
    form = to_spectral_batched(
        torch.stack([plain_A, spectrum[:, None] * v.T]),
        torch.stack([plain_B, u]),
        torch.ones(2),
        dtype=torch.float64,
    )
    updates = torch.stack([plain_B @ plain_A, (u * spectrum) @ v.T])
    torch.testing.assert_close(rebuild(form), updates, rtol=0, atol=1e-11)
    eye = torch.eye(3, dtype=torch.float64).expand(2, -1, -1)
    torch.testing.assert_close(form.A @ form.A.mT, eye, rtol=0, atol=1e-11)


@pytest.mark.parametrize("steep", ["A", "B"])
@pytest.mark.parametrize("condition", [5.0, 300.0, 900.0, 1.1e3, 1e5, 1e7])
def test_a_form_in_float32_is_as_good_as_float32_at_any_condition(steep, condition):
    u, v = (torch.linalg.qr(torch.randn(40, 4, dtype=torch.float64)).Q for _ in range(2))
    spectrum = torch.logspace(0, -math.log10(condition), 4, dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64)).Q
    lora_A = turn @ (v * spectrum if steep == "A" else v).T
    lora_B = (u * spectrum if steep == "B" else u) @ turn.T
    form = to_spectral(lora_A, lora_B, -2.0)
    exact = to_spectral(lora_A, lora_B, -2.0, dtype=torch.float64)
    turned = (form.A.double() * exact.A).sum(-1).sign()[:, None]
    torch.testing.assert_close(form.singular.double(), exact.singular, rtol=1e-6, atol=0)
    torch.testing.assert_close(form.A.double() * turned, exact.A, rtol=0, atol=1e-6)
    left = form.B.double() * turned / exact.singular[:, None]
    torch.testing.assert_close(left, exact.B / exact.singular[:, None], rtol=0, atol=1e-6)


def test_the_scaling_of_each_update_is_its_own_in_float32():
    lora_A, lora_B = random_factors(3, 10, 14)
    scalings = torch.tensor([2.0, -1.0, 0.5])
    form = to_spectral_batched(lora_A.expand(3, -1, -1), lora_B.expand(3, -1, -1), scalings)
    torch.testing.assert_close(rebuild(form), scalings[:, None, None] * (lora_B @ lora_A))


@pytest.mark.parametrize("dead", ["A", "B", "both"])
def test_a_zero_update_has_zero_singular_values_and_finite_directions(dead):
    lora_A, lora_B = random_factors(3, 8, 8)
    form = to_spectral(lora_A * (dead == "B"), lora_B * (dead == "A"), 1.0, dtype=torch.float64)
    assert form.singular.count_nonzero() == 0
    torch.testing.assert_close(form.A @ form.A.T, torch.eye(3, dtype=torch.float64))


def test_truncation_is_the_best_approximation_of_its_rank():
    lora_A, lora_B = random_factors(5, 12, 12, dtype=torch.float64)
    form = to_spectral(lora_A, lora_B, 1.0, dtype=torch.float64)
    error = rebuild(form) - rebuild(truncate(form, rank=2))
    torch.testing.assert_close(error.norm(), form.singular[2:].norm())
