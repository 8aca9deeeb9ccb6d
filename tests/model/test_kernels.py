"""The compiled operator decides and computes what the reference does."""

from __future__ import annotations

import pytest
import torch

from lag_engine.errors import ModelError
from lag_engine.model.bank import ResidentStack
from lag_engine.model.kernels import CPP, default_form, kernel_status
from lag_engine.routing import GROUPED, LAG, REFERENCE, SCORES, Arrow, SpectR
from lag_engine.routing.scores import rounding_tolerance
from tests.model.placed import CPU, Placed, draw, inputs, needs_compiler

ROUTERS = [
    *(LAG(5, score) for score in SCORES),
    LAG(1),
    LAG(200, floor=0.9),
    LAG("adaptive", "norm", keep=0.8, k_min=2, k_max=9),
    Arrow(),
    Arrow(6, 0.3),
]


def check(router, stack, x, allowed=None):
    """Asserts that rows, scores, weights and updates are the reference's, in any order of K."""
    choice = router.route(x, stack, allowed=allowed, form=REFERENCE)
    total = REFERENCE.apply(choice.z, choice.weights, choice.rows, stack)
    found = CPP.fuse(router, stack, allowed).update(x)
    expected, order = choice.rows.sort(-1)
    rows, own_order = found.rows.sort(-1)
    assert torch.equal(rows, expected)
    for name in ("scores", "weights"):
        own, other = getattr(found, name).gather(1, own_order), getattr(choice, name)
        torch.testing.assert_close(own, other.gather(1, order), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.total, total, rtol=1e-4, atol=1e-4)


@needs_compiler
@pytest.mark.parametrize("router", ROUTERS, ids=repr)
@pytest.mark.parametrize("n_tokens", [1, 3, 8, 9, 40])
@pytest.mark.parametrize(
    ("n", "d_in", "d_out", "rank"), [(300, 64, 48, 4), (20, 70, 33, 9), (150, 129, 16, 1)]
)
def test_it_decides_and_computes_what_the_reference_does(router, n_tokens, n, d_in, d_out, rank):
    stack = draw(n, d_in, d_out, rank)
    check(router, stack, inputs(n_tokens, d_in))


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("x_dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("n_tokens", [1, 20])
def test_stored_and_activation_dtypes_may_differ(dtype, x_dtype, n_tokens):
    stack = draw(200, 96, 32, 4, dtype=dtype)
    check(LAG(7), stack, inputs(n_tokens, 96, dtype=x_dtype))


@needs_compiler
def test_float16_below_its_normal_numbers_is_read_as_it_is():
    stack = draw(200, 96, 32, 4)
    every = torch.arange(200)
    small = [of(every) * 1e-6 for of in (stack.A, stack.B)]
    stack = ResidentStack(Placed(*small, torch.ones(200, 4), torch.float16), CPU)
    for n_tokens in (1, 20):
        check(LAG(7), stack, inputs(n_tokens, 96) * 1e6)


@needs_compiler
def test_the_adapters_of_a_mix_are_named_best_first():
    scores = CPP.fuse(Arrow(6), draw(200, 64, 16, 4), None).update(inputs(12, 64)).scores
    assert torch.equal(scores, scores.sort(-1, descending=True).values)


@needs_compiler
@pytest.mark.parametrize("router", ROUTERS, ids=repr)
@pytest.mark.parametrize("n_allowed", [0, 1, 3, 80])
def test_only_candidates_are_chosen(router, n_allowed):
    stack, allowed = draw(200, 64, 16, 4), torch.zeros(200, dtype=torch.bool)
    allowed[torch.randperm(200, generator=torch.Generator().manual_seed(2))[:n_allowed]] = True
    for n_tokens in (1, 12):
        check(router, stack, inputs(n_tokens, 64), allowed)


@needs_compiler
@pytest.mark.parametrize("n_tokens", [1, 10])
@pytest.mark.parametrize("gap", [0.0, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3])
@pytest.mark.parametrize("k", [1, 2, 20, 150])
def test_near_ties_at_the_edge_fall_as_in_float32(n_tokens, gap, k):
    # All arrow vectors are one direction, turned away by steps far finer than int8 or bfloat16.
    generator = torch.Generator().manual_seed(3)
    n, d_in = 300, 64
    one, other = torch.linalg.qr(torch.randn(d_in, 2, generator=generator))[0].T
    turns = gap * torch.randperm(n, generator=generator).float()
    A = (turns.cos()[:, None] * one + turns.sin()[:, None] * other)[:, None]
    stack = ResidentStack(Placed(A, torch.randn(n, 1, 8, generator=generator), A[:, :, 0]), CPU)
    x = one + (0.5 + torch.rand(n_tokens, 1, generator=generator)) * other
    if gap not in (1e-8, 1e-7, 1e-6):  # there float32 itself cannot say what is within a tolerance
        check(Arrow(k), stack, x)
    chosen = torch.zeros(n_tokens, n, dtype=torch.bool)
    chosen.scatter_(1, CPP.fuse(Arrow(k), stack, None).update(x).rows, value=True)
    scores = (x.double() @ stack.arrow.double().T).abs()
    last = scores.topk(k).values[:, -1:]
    near = 2 * rounding_tolerance(x)
    assert (chosen.sum(-1) == k).all()
    assert chosen[scores > last + near].all()
    assert not chosen[scores < last - near].any()


@needs_compiler
def test_equal_adapters_go_to_the_lowest_row():
    one = draw(1, 64, 16, 4)
    same = [one.A(torch.zeros(250, dtype=torch.long)), one.B(torch.zeros(250, dtype=torch.long))]
    stack = ResidentStack(Placed(*same, torch.ones(250, 4)), CPU)
    for n_tokens in (1, 12):
        x = inputs(n_tokens, 64)
        rows = CPP.fuse(Arrow(3), stack, None).update(x).rows
        assert torch.equal(rows, torch.arange(3).expand(n_tokens, -1))
        assert (CPP.fuse(LAG(20), stack, None).update(x).rows == 0).all()


@needs_compiler
def test_a_token_is_decided_alike_alone_and_among_others():
    stack, x = draw(300, 96, 40, 5, dtype=torch.bfloat16), inputs(30, 96)
    slot = CPP.fuse(LAG(8), stack, None)
    together = slot.update(x)
    for t in range(4):
        alone = slot.update(x[t : t + 1])
        assert torch.equal(alone.rows[0], together.rows[t])
        assert torch.equal(alone.total[0], together.total[t])


@needs_compiler
def test_two_threads_compute_what_one_does():
    stack, slots = draw(300, 96, 40, 5), []
    before = torch.get_num_threads()
    for n_tokens in (1, 30):
        slot, x = CPP.fuse(LAG(8), stack, None), inputs(n_tokens, 96)
        for n_threads in (1, 2):
            torch.set_num_threads(n_threads)
            slots.append(slot.update(x))
        torch.set_num_threads(before)
        assert all(torch.equal(one, two) for one, two in zip(*slots[-2:], strict=True))


@needs_compiler
def test_adapters_of_several_ranks_lie_in_several_places(make_adapters, tmp_path, make_model):
    pytest.importorskip("peft")
    from lag_engine.adapters import AdapterLibrary, LoraModule, PeftAdapter

    module = "model.layers.0.mlp.gate_proj"
    with AdapterLibrary.create(tmp_path / "library", base_model=make_model()) as library:
        for adapter in make_adapters():
            modules = {
                name: LoraModule(lora.lora_A.float(), lora.lora_B.float(), lora.scaling)
                for name, lora in adapter.modules.items()
            }
            source = PeftAdapter(modules=modules, base_model=None, config={}, source="memory")
            library.add(source, name=adapter.name, kind=adapter.kind)
        stack = ResidentStack(library.stack(module, "knowledge"), CPU)
        check(LAG(3), stack, inputs(5, stack.arrow.shape[1]))


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("n_tokens", [1, 2, 12])
def test_what_is_added_at_once_is_what_is_added_afterwards(n_tokens, dtype):
    stack, x = draw(300, 96, 40, 5, dtype=torch.bfloat16), inputs(n_tokens, 96, dtype=dtype)
    out = inputs(n_tokens, 40, dtype=dtype, seed=2)[None]
    before = out.clone()
    slot = CPP.fuse(LAG(8), stack, None)
    expected = out + slot.update(x).total.to(dtype)
    assert torch.equal(slot.added(out, x), expected)
    apart = torch.stack([x, x], dim=-1)[None, ..., 0]  # as modules get it, and not contiguous
    assert torch.equal(slot.added(out, apart), expected)
    assert torch.equal(out, before)


@needs_compiler
@pytest.mark.parametrize("d_in", [1, 33, 64, 200])
@pytest.mark.parametrize("scale", [1e-15, 1.0, 1e30])
@pytest.mark.parametrize("largest", [1.0, 1e6])
def test_few_tokens_of_any_magnitude_find_the_adapters_of_many(d_in, scale, largest):
    stack, x = draw(300, d_in, 8, 1), inputs(2, d_in)
    x[:, 0] *= largest
    x = x * scale
    few, many = (CPP.fuse(LAG(6), stack, None).update(x.repeat(n, 1)).rows for n in (1, 6))
    assert torch.equal(few, many[:2])


def test_inputs_that_are_no_numbers_are_routed_nowhere():
    stack = draw(200, 64, 16, 4)
    for n_tokens in (1, 12):
        x = torch.full((n_tokens, 64), torch.nan)
        assert (CPP.fuse(LAG(5), stack, None).update(x).rows == -1).all()


@needs_compiler
def test_what_it_does_not_know_is_left_to_pytorch(make_stack):
    stack = draw(300, 64, 16, 4)
    assert CPP.fuse(SpectR(), stack, None) is None
    assert CPP.fuse(LAG(299), stack, None) is None
    assert CPP.fuse(LAG(5), make_stack(), None) is None
    slot = CPP.fuse(LAG(5), stack, None)
    assert slot.update(inputs(2, 64).double()) is None
    assert slot.update(inputs(2, 64).requires_grad_()) is None
    assert slot.update(inputs(0, 64)) is None
    assert slot.added(inputs(2, 16).half(), inputs(2, 64)) is None


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("n_threads", [1, 2])
def test_compact_vectors_are_as_near_as_they_say(dtype, n_threads):
    lone = draw(140, 50, 8, 2)
    lone._stack._A[3] = 0
    stack = ResidentStack(Placed(lone._stack._A, lone._stack._B, lone.singular, dtype), CPU)
    arrow, compiled = stack._stack.arrow.double(), stack.compiled
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(n_threads)
        compiled.prepare(1)
        compiled.prepare(100)
    finally:
        torch.set_num_threads(before)
    kept = compiled._kept
    for found, errors in (
        (kept["codes"] * kept["scales"][:, None], kept["code_errors"]),
        (kept["half_lines"], kept["half_errors"]),
    ):
        difference = (arrow - found[:, :50].double()).norm(dim=-1)
        assert (difference <= errors).all()
        assert (errors <= 0.02 * arrow.norm(dim=-1) + 1e-12).all()
        assert not found[:, 50:].any()
    assert (arrow.norm(dim=-1) <= compiled.struct.reach).all()
    assert compiled.struct.reach < 1.01


def test_the_environment_decides_between_the_forms(monkeypatch):
    monkeypatch.setenv("LAG_KERNELS", "torch")
    assert default_form() is GROUPED
    assert "LAG_KERNELS=torch" in kernel_status().reason
    monkeypatch.setenv("LAG_KERNELS", "cuda")
    with pytest.raises(ModelError, match="auto, cpp, torch"):
        default_form()
    monkeypatch.setenv("LAG_KERNELS", "")
    unset = kernel_status()
    monkeypatch.delenv("LAG_KERNELS")
    assert unset == kernel_status()


@needs_compiler
def test_tokens_of_different_routers_share_one_call():
    stack, x = draw(300, 64, 24, 4), inputs(30, 64)
    allowed = torch.arange(300) < 50
    slots = [
        CPP.fuse(LAG(5), stack, None),
        CPP.fuse(Arrow(3), stack, allowed),
        CPP.fuse(LAG(9, "norm", floor=0.4), stack, None),
    ]
    owners = torch.arange(30, dtype=torch.int32) % 4 - 1
    together = slots[0].update(x, others=slots[1:], owners=owners)
    assert not together.total[owners == -1].any()
    assert (together.rows[owners == -1] == -1).all()
    for owner, slot in enumerate(slots):
        alone, here = slot.update(x), owners == owner
        assert torch.equal(together.total[here], alone.total[here])
        for name in ("rows", "scores", "weights"):
            found = getattr(together, name)[here][:, : slot.width]
            assert torch.equal(found, getattr(alone, name)[here])
