"""Retrieval that may miss an adapter: only where permitted, and hardly ever."""

from __future__ import annotations

import pytest
import torch

from lag_engine.model.bank import ResidentStack
from lag_engine.model.kernels import CPP, build
from lag_engine.routing import LAG, REFERENCE, Arrow
from tests.model.placed import CPU, Placed, draw, inputs, needs_compiler

kernels = build.build()
has_nibbles = kernels.status.is_ready and kernels.loaded.lag_reads_nibbles()
needs_nibbles = pytest.mark.skipif(
    not has_nibbles,
    reason=f"four bits need the compiled operator and VNNI; {kernels.status.reason}",
)
N, D_IN = 600, 300
LARGEST = 7


def of_arrow(arrow):
    """A stack of adapters of rank 1 with these arrow vectors; (N, D_in)."""
    return ResidentStack(Placed(arrow[:, None], torch.ones(len(arrow), 1, 4), arrow[:, :1]), CPU)


def in_nibbles(*shape, seed=0):
    """Vectors that four bits hold exactly."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(-LARGEST, LARGEST + 1, shape, generator=generator).float()
    codes[:, 0] = LARGEST
    return codes / 64


def rows_of(router, stack, x):
    """What the operator chooses for each token alone; (T, K)."""
    slot = CPP.fuse(router, stack, None)
    return torch.cat([slot.update(token[None]).rows for token in x])


def expected(router, stack, x):
    return router.route(x, stack, form=REFERENCE).rows


@needs_nibbles
@pytest.mark.parametrize("n_threads", [1, 2])
def test_nibbles_are_the_nearest_and_as_near_as_they_say(n_threads):
    stack = draw(N, D_IN, 8, 2)
    arrow, compiled = stack._stack.arrow, stack.compiled
    arrow[3] = 0
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(n_threads)
        compiled.prepare(1, is_approximate=True)
    finally:
        torch.set_num_threads(before)
    kept = compiled._kept
    blocks = kept["nibbles"].view(N, -1, 1, 64)  # (N, blocks, 1, 64)
    codes = torch.cat([blocks & 15, blocks >> 4], dim=2).flatten(1)[:, :D_IN].float() - 8
    scales = arrow.abs().amax(-1, keepdim=True) / LARGEST
    torch.testing.assert_close(kept["nibble_scales"], scales[:, 0])
    lost = codes * scales - arrow
    assert (lost.abs() <= scales * (0.5 + 1e-4)).all()
    torch.testing.assert_close(kept["nibble_errors"], lost.norm(dim=-1), rtol=1e-3, atol=1e-6)


@needs_nibbles
@pytest.mark.parametrize("d_in", [256, 300, 400, 700])
@pytest.mark.parametrize("largest", [1.0, 1e3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("n_tokens", [1, 2])
def test_where_four_bits_lose_nothing_nothing_is_missed(d_in, largest, dtype, n_tokens):
    stack, x = of_arrow(in_nibbles(N, d_in)), inputs(n_tokens, d_in, dtype=dtype)
    x[:, 5] *= largest
    for router in (Arrow(7, approximate=True), Arrow(1, approximate=True)):
        found = CPP.fuse(router, stack, None).update(x)
        assert torch.equal(found.rows.sort(-1).values, expected(router, stack, x).sort(-1).values)


@needs_nibbles
@pytest.mark.parametrize("largest", [1.0, 30.0, 1e4])
def test_the_winner_among_random_adapters_is_found(largest):
    stack, x = draw(2000, 256, 8, 3), inputs(400, 256)
    x[:, 7] *= largest
    found = rows_of(LAG(20, approximate=True), stack, x)
    assert (found == expected(LAG(20), stack, x)).float().mean() >= 0.995


@needs_nibbles
def test_an_adapter_is_missed_only_where_that_is_permitted():
    # Row 3 is all that the input meets, in elements too small for four bits beside the first.
    arrow = in_nibbles(N, D_IN)
    arrow[:, 0] = 1.0
    arrow[3, 1:] = 0.07
    stack, x = of_arrow(arrow), torch.cat([torch.zeros(1, 1), torch.ones(1, D_IN - 1)], dim=1)
    assert rows_of(Arrow(), stack, x) == 3
    assert rows_of(Arrow(approximate=True), stack, x) != 3
    slots = [CPP.fuse(Arrow(approximate=permits), stack, None) for permits in (True, False)]
    for n_tokens in (2, 3, 40):
        same = x.expand(n_tokens, -1)
        is_exact = n_tokens > 2
        assert ((slots[0].update(same).rows == 3) == is_exact).all()
        owners = torch.zeros(n_tokens, dtype=torch.int32)
        assert (slots[0].update(same, others=slots[1:], owners=owners).rows == 3).all()


@needs_nibbles
def test_only_the_compact_vectors_that_are_read_are_made():
    large, small, narrow = draw(N, D_IN, 8, 2), draw(300, D_IN, 8, 2), draw(N, 100, 8, 2)
    for stack, made in ((large, "nibbles"), (small, "codes"), (narrow, "codes")):
        rows_of(LAG(5, approximate=True), stack, inputs(1, stack.compiled.d_in))
        assert {"nibbles", "codes"} & set(stack.compiled._kept) == {made}


@needs_compiler
def test_without_the_instructions_the_scan_is_exact(monkeypatch):
    stack, x, router = draw(N, D_IN, 8, 2), inputs(20, D_IN), LAG(20, approximate=True)
    monkeypatch.setattr(stack.compiled, "reads_nibbles", False)
    assert torch.equal(rows_of(router, stack, x), expected(router, stack, x))
    assert "nibbles" not in stack.compiled._kept


@needs_nibbles
def test_inputs_that_bytes_cannot_hold_are_scanned_exactly():
    stack, x = draw(N, D_IN, 8, 2), inputs(2, D_IN)
    router = LAG(5, approximate=True)
    for scale in (1e30, 1e-30, 1e-42):
        exact = rows_of(LAG(5), stack, x * scale)
        assert torch.equal(rows_of(router, stack, x * scale), exact)
    assert (rows_of(router, stack, x * torch.nan) == -1).all()


@needs_nibbles
def test_only_candidates_are_chosen():
    stack, x = draw(N, D_IN, 8, 2), inputs(1, D_IN)
    allowed = torch.arange(N) % 100 == 0
    found = CPP.fuse(Arrow(9, approximate=True), stack, allowed).update(x).rows
    assert torch.equal(found[found >= 0].sort().values, torch.arange(0, N, 100))


def test_pytorch_takes_no_notice_of_it():
    stack, x = draw(N, D_IN, 8, 2), inputs(30, D_IN)
    for exact, permitted in (
        (LAG(5), LAG(5, approximate=True)),
        (Arrow(3), Arrow(3, approximate=True)),
    ):
        assert torch.equal(expected(exact, stack, x), expected(permitted, stack, x))
