"""The GPU kernels decide and compute what the reference does, in Triton's interpreter.

On a GPU: `TRITON_INTERPRET=0 python -m pytest -m "gpu or not gpu" tests/model/test_gpu_kernels.py`.
"""

from __future__ import annotations

import sys

import pytest
import torch

from lag_engine.errors import ModelError
from lag_engine.model.bank import ResidentStack
from lag_engine.model.engine import LAGEngine
from lag_engine.model.kernels import default_form, form, gpu_status, kernel_status
from lag_engine.model.kernels.gpu import status
from lag_engine.routing import LAG, REFERENCE, SCORES, Arrow, Plan, Routed, SpectR

if sys.platform != "linux":
    pytest.skip("Triton is made for Linux only", allow_module_level=True)

from lag_engine.model.kernels.gpu import launch, sizes
from lag_engine.model.kernels.gpu.form import TRITON

DEVICE = torch.device("cpu" if status.is_interpreted() else "cuda")
N, D_IN, D_OUT = 19, 20, 9  # three parts, the last one not full
ROUTERS = [
    *(LAG(3, score) for score in SCORES),
    LAG(1),
    LAG(200, floor=0.9),
    LAG("adaptive", "norm", keep=0.8, k_min=2, k_max=5),
    LAG(10, "norm"),  # two tokens ask for so many that all adapters are projected
    Arrow(),
    Arrow(3, 0.3),
]


@pytest.fixture
def stack(make_stack):
    """A stack of ranks 1 to 3."""
    return ResidentStack(make_stack(N, d_in=D_IN, d_out=D_OUT, rank=3, dtype=torch.float32), DEVICE)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    """So that even small modules are read in several pieces and written by several programs."""
    monkeypatch.setattr(sizes, "TILE", 128)
    monkeypatch.setattr(sizes, "STEP", 16)
    monkeypatch.setattr(sizes, "COLUMNS", 8)


@pytest.fixture(params=[1, 2])
def n_tokens(request):
    """One token is scored alone, several by matrix products."""
    return request.param


def inputs(n_tokens, *, dtype=torch.float32, seed=1):
    x = torch.randn(n_tokens, D_IN, generator=torch.Generator().manual_seed(seed))
    return x.to(DEVICE, dtype)


def check(router, stack, x, allowed=None):
    """Asserts that rows, scores, weights and updates are the reference's, in any order of K."""
    choice = router.route(x, stack, allowed=allowed, form=REFERENCE)
    total = REFERENCE.apply(choice.z, choice.weights, choice.rows, stack)
    found = TRITON.fuse(router, stack, allowed).update(x)
    expected, order = choice.rows.sort(-1)
    rows, own_order = found.rows.sort(-1)
    assert torch.equal(rows, expected)
    for name in ("scores", "weights"):
        own, other = getattr(found, name).gather(1, own_order), getattr(choice, name)
        torch.testing.assert_close(own, other.gather(1, order), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.total, total, rtol=1e-4, atol=1e-4)


def test_they_run_here():
    assert gpu_status().is_ready
    assert ("interprets" in gpu_status().reason) == (DEVICE.type == "cpu")


@pytest.mark.parametrize("router", ROUTERS, ids=repr)
def test_they_decide_and_compute_what_the_reference_does(router, stack, n_tokens):
    check(router, stack, inputs(n_tokens))


@pytest.mark.parametrize(
    ("dtype", "x_dtype"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.bfloat16),
        (torch.bfloat16, torch.bfloat16),
        (torch.float16, torch.float16),
    ],
    ids=str,
)
def test_stored_and_activation_dtypes_may_differ(dtype, x_dtype, make_stack, n_tokens):
    stack = ResidentStack(make_stack(9, d_in=D_IN, d_out=D_OUT, rank=2, dtype=dtype), DEVICE)
    check(LAG(2), stack, inputs(n_tokens, dtype=x_dtype))


@pytest.mark.parametrize("router", [LAG(3), Arrow(3)], ids=repr)
@pytest.mark.parametrize("n_allowed", [0, 1, 5])
def test_only_candidates_are_chosen(router, n_allowed, stack):
    allowed = torch.zeros(N, dtype=torch.bool)
    allowed[torch.randperm(N, generator=torch.Generator().manual_seed(2))[:n_allowed]] = True
    check(router, stack, inputs(1), allowed.to(DEVICE))


class Equal:
    """A stack of one adapter, many times."""

    def __init__(self, stack, n):
        self._row = torch.zeros(n, dtype=torch.long)
        self.names = tuple(map(str, range(n)))
        self.arrow, self.singular = stack.arrow[self._row], stack.singular[self._row]
        self._stack = stack

    def A(self, rows):
        return self._stack.A(self._row[rows])

    def B(self, rows):
        return self._stack.B(self._row[rows])


def test_equal_adapters_go_to_the_lowest_row(make_stack, n_tokens):
    one = make_stack(1, d_in=D_IN, d_out=D_OUT, dtype=torch.float32)
    stack, x = ResidentStack(Equal(one, N), DEVICE), inputs(n_tokens)
    rows = TRITON.fuse(Arrow(3), stack, None).update(x).rows
    assert torch.equal(rows.cpu(), torch.arange(3).expand(n_tokens, -1))
    assert (TRITON.fuse(LAG(4), stack, None).update(x).rows == 0).all()


@pytest.mark.parametrize("gap", [1e-8, 1e-7, 1e-3])
def test_near_ties_at_the_edge_fall_within_the_tolerance(gap, n_tokens, make_stack):
    # All arrow vectors are one direction, turned away by steps about as fine as float32.
    generator = torch.Generator().manual_seed(3)
    one, other = torch.linalg.qr(torch.randn(D_IN, 2, generator=generator))[0].T
    turns = gap * torch.randperm(N, generator=generator).float()
    found = make_stack(N, d_in=D_IN, d_out=D_OUT, rank=1, dtype=torch.float32)
    found._A = (turns.cos()[:, None] * one + turns.sin()[:, None] * other)[:, None]
    x = one + (0.5 + torch.rand(n_tokens, 1, generator=generator)) * other
    slot = TRITON.fuse(Arrow(4), ResidentStack(found, DEVICE), None)
    chosen = torch.zeros(n_tokens, N, dtype=torch.bool)
    chosen.scatter_(1, slot.update(x.to(DEVICE)).rows.cpu(), value=True)
    scores = (x.double() @ found._A[:, 0].double().T).abs()
    last = scores.topk(4).values[:, -1:]
    near = 2 * 4 * 2**-23 * x.double().norm(dim=-1, keepdim=True)
    assert (chosen.sum(-1) == 4).all()
    assert chosen[scores > last + near].all()
    assert not chosen[scores < last - near].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("router", [LAG(2), Arrow(2)], ids=repr)
def test_updates_are_added_in_the_dtype_of_what_they_are_added_to(router, dtype, stack):
    slot, x = TRITON.fuse(router, stack, None), inputs(2)
    out = torch.randn(1, 2, D_OUT, generator=torch.Generator().manual_seed(5)).to(DEVICE, dtype)
    added = slot.added(out, x)
    assert added.shape == out.shape
    torch.testing.assert_close(added, (out.float() + slot.update(x).total).to(dtype))


def test_inputs_that_are_no_numbers_are_routed_nowhere(stack, n_tokens):
    x = torch.full((n_tokens, D_IN), torch.nan, device=DEVICE)
    assert (TRITON.fuse(LAG(2), stack, None).update(x).rows == -1).all()


def test_tokens_of_different_routers_share_one_call(stack):
    x = inputs(4)  # the first is nobody's
    slots = [
        TRITON.fuse(LAG(2), stack, None),
        TRITON.fuse(Arrow(3), stack, torch.arange(N, device=DEVICE) < 7),
        TRITON.fuse(LAG("adaptive", "norm", floor=0.4, k_max=3), stack, None),
    ]
    owners = torch.arange(4, dtype=torch.int32, device=DEVICE) - 1
    together = slots[0].update(x, others=slots[1:], owners=owners)
    assert not together.total[0].any()
    assert (together.rows[0] == -1).all()
    for owner, slot in enumerate(slots):
        alone, here = slot.update(x[owner + 1 :][:1]), owners == owner
        torch.testing.assert_close(together.total[here], alone.total, rtol=1e-5, atol=1e-6)
        assert torch.equal(together.rows[here][:, : slot.width], alone.rows)
        for name in ("scores", "weights"):
            torch.testing.assert_close(
                getattr(together, name)[here][:, : slot.width], getattr(alone, name)
            )


def test_a_model_writes_the_same_tokens(text_model, byte_tokenizer, text_library, monkeypatch):
    plan, texts, calls = Plan("custom", knowledge=Routed(LAG(2))), [], []
    monkeypatch.setattr(launch, "_route", _counted(launch._route, calls))
    for wanted in ("torch", "triton"):
        monkeypatch.setenv("LAG_KERNELS", wanted)
        with LAGEngine(text_model.to(DEVICE), byte_tokenizer, text_library) as engine:
            texts.append(engine.generate("?", plan=plan, max_new_tokens=3, trace=True))
    ours, theirs = texts
    assert len(calls) == 3 * 4  # forward passes, modules
    assert ours.text == theirs.text
    assert (
        ours.trace.to_dict()["decisions"][0]["adapters"]
        == (theirs.trace.to_dict()["decisions"][0]["adapters"])
    )


def _counted(function, calls):
    def call(*args):
        calls.append(args)
        return function(*args)

    return call


@pytest.mark.gpu
def test_a_graph_repeats_the_update_of_other_inputs(stack, n_tokens):
    slot, x = TRITON.fuse(LAG(3), stack, None), inputs(n_tokens)
    slot.update(x)  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = slot.update(x)
    x.copy_(inputs(n_tokens, seed=7))
    graph.replay()
    for part, expected in zip(found, slot.update(x), strict=True):
        assert torch.equal(part, expected)


class Launches:
    """Takes the place of a kernel, and of every kernel's launch keeps the grid and the sizes."""

    def __init__(self):
        self.kept = []

    def __getitem__(self, grid):
        def launch(*args, **pieces):
            self.kept.append((grid, pieces, [a for a in args if isinstance(a, int)]))

        return launch


@pytest.mark.parametrize("n", [1, 20, 1000, 40_000])
@pytest.mark.parametrize("n_tokens", [1, 2, 33, 400])
def test_launches_follow_from_shapes_alone(n, n_tokens, make_stack, monkeypatch):
    launches = Launches()
    for name in ("retrieve", "project_all", "project", "apply"):
        monkeypatch.setattr(launch, name, launches)
    slot = TRITON.fuse(LAG(20), ResidentStack(make_stack(3, dtype=torch.float32), DEVICE), None)
    for part in ("arrow", "singular", "A", "B"):
        tensor = getattr(slot.stack, part)
        setattr(slot.stack, part, tensor[:1].to("meta").expand(n, *tensor.shape[1:]))
    slot.stack.n, slot.n_candidates = n, min(20, n)
    slot.row, slot.allowed = slot.row.to("meta"), slot.allowed.to("meta")
    # A meta tensor has no numbers: reading one would be an error.
    update = slot.update(torch.empty(n_tokens, slot.stack.d_in, device="meta"))
    is_dense = n_tokens > 1 and n <= 20 * 4
    assert len(launches.kept) == 3 + is_dense
    (grid, pieces, numbers), *_, (_, merged, left), (columns, _, _) = launches.kept
    assert grid[0] * pieces["ROWS"] >= n
    assert grid[1] * pieces["TOKENS"] >= n_tokens
    assert merged["FOUND"] >= left[-1] == grid[0] * numbers[-1]
    assert columns == (n_tokens, 2)
    assert update.total.shape == (n_tokens, slot.stack.d_out)


def test_what_they_do_not_know_is_left_to_pytorch(stack):
    assert TRITON.fuse(SpectR(), stack, None) is None
    assert TRITON.fuse(LAG(5), _Many(), None) is None
    slot = TRITON.fuse(LAG(5), stack, None)
    for x in (inputs(2).double(), inputs(2).requires_grad_(), inputs(0)):
        assert slot.update(x) is None
        assert slot.added(x.new_zeros(len(x), D_OUT), x) is None
        assert slot.update(x, others=[slot], owners=x.new_zeros(len(x), dtype=torch.int32)) is None
    assert slot.added(inputs(2).new_zeros(2, D_OUT).double(), inputs(2)) is None


class _Many:
    """More adapters than one program can merge."""

    singular = torch.empty((1_000_000, 1), device="meta")


def test_a_device_without_room_is_told(stack, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(torch, "cat", full)
    with pytest.raises(ModelError, match="Unset LAG_KERNELS"):
        TRITON.fuse(LAG(5), stack, None)


def test_only_the_environment_switches_them_on(monkeypatch):
    monkeypatch.setenv("LAG_KERNELS", "auto")
    assert default_form() is not TRITON
    monkeypatch.setenv("LAG_KERNELS", "triton")
    assert default_form() is TRITON
    assert "GPU" in kernel_status().reason


def test_asked_for_where_they_cannot_run_they_are_an_error(monkeypatch):
    monkeypatch.setenv("LAG_KERNELS", "triton")
    monkeypatch.setattr(status, "is_interpreted", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ModelError, match="no CUDA device") as caught:
        default_form()
    assert "unset LAG_KERNELS" in str(caught.value)
    monkeypatch.setattr(status, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="Triton is not installed"):
        form.default_form()
