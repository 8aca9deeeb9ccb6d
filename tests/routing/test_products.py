"""The grouped products equal the reference to rounding, whatever the sizes."""

from __future__ import annotations

import pytest
import torch

from lag_engine.routing import GROUPED, REFERENCE, products

CLOSE = {"rtol": 1e-10, "atol": 1e-10}


@pytest.fixture(params=[1, products.GATHER_ELEMENTS], ids=["grouped", "gathered"])
def gather_elements(request, monkeypatch):
    monkeypatch.setattr(products, "GATHER_ELEMENTS", request.param)


@pytest.fixture(params=[200, products.SCRATCH_ELEMENTS], ids=["chunked", "whole"])
def scratch_elements(request, monkeypatch):
    monkeypatch.setattr(products, "SCRATCH_ELEMENTS", request.param)


def draw(n_tokens, k, n, seed=0, skewed=False):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n_tokens, 16, generator=generator, dtype=torch.float64)
    rows = torch.stack([torch.randperm(n, generator=generator)[:k] for _ in range(n_tokens)])
    if skewed:
        rows[: n_tokens // 2] = rows[0]
    weights = torch.rand(n_tokens, k, generator=generator, dtype=torch.float64)
    return x, rows, weights


@pytest.mark.usefixtures("gather_elements", "scratch_elements")
@pytest.mark.parametrize(("n_tokens", "k"), [(1, 1), (1, 5), (2, 3), (33, 1), (33, 5), (33, 12)])
@pytest.mark.parametrize("skewed", [False, True])
def test_grouped_products_equal_the_reference(n_tokens, k, skewed, make_stack):
    stack = make_stack(12)
    x, rows, weights = draw(n_tokens, k, 12, skewed=skewed)
    z = REFERENCE.project(x, rows, stack)
    torch.testing.assert_close(GROUPED.project(x, rows, stack), z, **CLOSE)
    rows[::3, 0] = -1
    torch.testing.assert_close(GROUPED.project(x, rows, stack)[rows >= 0], z[rows >= 0], **CLOSE)
    expected = REFERENCE.apply(z, weights, rows, stack)
    torch.testing.assert_close(GROUPED.apply(z, weights, rows, stack), expected, **CLOSE)


@pytest.mark.usefixtures("scratch_elements")
@pytest.mark.parametrize("n_tokens", [1, 9])
def test_shared_rows_equal_the_same_rows_for_each_token(n_tokens, make_stack):
    stack = make_stack(12)
    x, _, _ = draw(n_tokens, 3, 12)
    rows, weights = torch.tensor([7, 2, 11]), torch.tensor([1.0, -0.5, 2.0], dtype=x.dtype)
    each = rows.expand(n_tokens, -1)
    for form in (REFERENCE, GROUPED):
        z = form.project(x, rows, stack)
        torch.testing.assert_close(z, REFERENCE.project(x, each, stack), **CLOSE)
        torch.testing.assert_close(
            form.apply(z, weights, rows, stack),
            REFERENCE.apply(z, weights.expand(n_tokens, -1), each, stack),
            **CLOSE,
        )


def test_an_update_is_the_dense_delta_times_x(make_stack):
    stack = make_stack(12)
    x, rows, weights = draw(6, 2, 12)
    z = GROUPED.project(x, rows, stack)
    delta = stack.B(rows).mT @ stack.A(rows)  # (T, K, D_out, D_in)
    expected = torch.einsum("tk,tkod,td->to", weights, delta, x)
    torch.testing.assert_close(GROUPED.apply(z, weights, rows, stack), expected, **CLOSE)


@pytest.mark.parametrize("form", [REFERENCE, GROUPED])
def test_no_row_means_a_zero_update(form, make_stack):
    z, weights = torch.ones(3, 2, 4, dtype=torch.float64), torch.ones(3, 2, dtype=torch.float64)
    rows = torch.full((3, 2), -1)
    assert form.apply(z, weights, rows, make_stack()).abs().max() == 0


def test_scratch_stays_within_its_bound(make_stack, monkeypatch):
    monkeypatch.setattr(products, "GATHER_ELEMENTS", 1)
    monkeypatch.setattr(products, "SCRATCH_ELEMENTS", 4096)
    stack = make_stack(30)
    _, rows, _ = draw(200, 6, 30, skewed=True)
    rank = stack.singular.shape[1]
    for group_rows, places, _ in products._groups(rows.flatten(), block=rank * 16, item=16):
        largest_alone = rank * 16 + places.shape[1] * 16
        assert group_rows.numel() * largest_alone <= max(4096, largest_alone)
