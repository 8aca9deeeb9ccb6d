"""Properties of the routers, on stacks of random adapters."""

from __future__ import annotations

import math

import pytest
import torch

from lag_engine.errors import PlanError
from lag_engine.routing import GROUPED, LAG, REFERENCE, SCORES, Arrow, SpectR
from lag_engine.routing.scores import arrow_scores, rerank_scores

N_TOKENS, D_IN = 24, 16


@pytest.fixture
def x():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(N_TOKENS, D_IN, generator=generator, dtype=torch.float64)


class Rows:
    """Chosen rows of another stack, in another order."""

    def __init__(self, stack, rows):
        self._stack, self._rows = stack, torch.as_tensor(rows)
        self.arrow, self.singular = stack.arrow[self._rows], stack.singular[self._rows]

    def A(self, rows):
        return self._stack.A(self._rows[rows])

    def B(self, rows):
        return self._stack.B(self._rows[rows])


ROUTERS = [Arrow(), Arrow(3), SpectR(), SpectR(3, "norm"), LAG(4), LAG(4, "norm"), LAG("adaptive")]


def update(choice, stack):
    return GROUPED.apply(choice.z, choice.weights, choice.rows, stack)


@pytest.mark.parametrize("score", SCORES)
def test_lag_with_one_candidate_is_arrow_top_1(score, make_stack, x):
    stack = make_stack()
    lag, arrow = LAG(1, score).route(x, stack), Arrow().route(x, stack)
    assert torch.equal(lag.rows, arrow.rows)
    torch.testing.assert_close(update(lag, stack), update(arrow, stack))


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("retrieve_k", [12, 13, 1000])
def test_lag_over_the_whole_library_is_spectr_top_1(score, retrieve_k, make_stack, x):
    stack = make_stack(12)
    lag, spectr = LAG(retrieve_k, score).route(x, stack), SpectR(1, score).route(x, stack)
    assert torch.equal(lag.rows, spectr.rows)
    torch.testing.assert_close(lag.scores, spectr.scores)
    torch.testing.assert_close(update(lag, stack), update(spectr, stack))


@pytest.mark.parametrize("router", ROUTERS)
def test_a_permuted_library_gives_the_permuted_answer(router, make_stack, x):
    stack = make_stack()
    order = torch.randperm(12, generator=torch.Generator().manual_seed(5))
    straight, permuted = router.route(x, stack), router.route(x, Rows(stack, order))
    assert torch.equal(order[permuted.rows].sort(dim=-1).values, straight.rows.sort(dim=-1).values)


@pytest.mark.parametrize("router", ROUTERS)
def test_a_token_is_routed_alike_alone_and_among_others(router, make_stack, x):
    stack = make_stack()
    together = update(router.route(x, stack), stack)
    for t in range(4):
        alone = update(router.route(x[t : t + 1], stack), stack)
        torch.testing.assert_close(alone[0], together[t])


@pytest.mark.parametrize("router", ROUTERS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_scores_and_projections_are_float32_whatever_the_activations_are(
    router, dtype, make_stack, x
):
    stack = make_stack(dtype=torch.float32)
    choice = router.route(x.to(dtype), stack)
    assert {choice.scores.dtype, choice.weights.dtype, choice.z.dtype} == {torch.float32}
    # The same rounded input routed in float64 gives the same choice.
    exact = router.route(x.to(dtype).double(), make_stack())
    assert torch.equal(choice.rows.sort(dim=-1).values, exact.rows.sort(dim=-1).values)


@pytest.mark.parametrize("router", ROUTERS)
def test_the_reference_form_chooses_alike(router, make_stack, x):
    stack = make_stack()
    grouped, reference = router.route(x, stack), router.route(x, stack, form=REFERENCE)
    assert torch.equal(grouped.rows, reference.rows)
    torch.testing.assert_close(grouped.z, reference.z)


@pytest.mark.parametrize("router", ROUTERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n_tokens", [1, 7, N_TOKENS])
def test_exact_duplicates_go_to_the_lowest_row(router, dtype, n_tokens, make_stack, x):
    # Each adapter stands three times, the copies far apart so that no product treats them alike.
    stack = make_stack(7, dtype=dtype)
    choice = router.route(x[:n_tokens].to(dtype), Rows(stack, [*range(7)] * 3))
    if getattr(router, "top_k", 1) == 1:
        assert choice.rows.max() < 7
    else:
        original = router.route(x[:n_tokens].to(dtype), stack)
        best = original.rows.gather(1, original.scores.argmax(-1, keepdim=True))
        for copy in range(router.top_k):
            assert (choice.rows == best + 7 * copy).any(-1).all()


@pytest.mark.parametrize("k", [2, 3, 5, 8])
def test_retrieval_takes_the_lower_rows_of_duplicates_at_its_edge(k, make_stack, x):
    stack = Rows(make_stack(4, dtype=torch.float32), [*range(4)] * 3)
    rows = Arrow(k).route(x.float(), stack).rows
    for adapter in range(4):
        copies = torch.stack([(rows == adapter + 4 * c).any(-1) for c in range(3)]).int()
        assert (copies[:-1] >= copies[1:]).all()


def test_adapters_with_one_shared_lora_a_tie_and_the_first_wins(x):
    generator = torch.Generator().manual_seed(3)
    Q = torch.linalg.qr(torch.randn(D_IN, 4, generator=generator, dtype=torch.float64))[0].T
    turns = torch.linalg.qr(torch.randn(6, 4, 4, generator=generator, dtype=torch.float64))[0]

    class Shared:
        arrow, singular = (turns @ Q)[:, 0].float(), torch.ones(6, 4)
        A = staticmethod(lambda rows: (turns @ Q).float()[rows])

    assert (SpectR().route(x.float(), Shared()).rows == 0).all()
    assert (LAG(6).route(x.float(), Shared()).rows == 0).all()


@pytest.mark.parametrize("router", ROUTERS)
def test_candidates_are_the_only_ones_chosen(router, make_stack, x):
    stack, names = make_stack(), [2, 5, 6, 9]
    allowed = torch.zeros(12, dtype=torch.bool)
    allowed[names] = True
    among = router.route(x, stack, allowed=allowed)
    alone = router.route(x, Rows(stack, names))
    assert set(among.rows.unique().tolist()) <= set(names)
    torch.testing.assert_close(update(among, stack), update(alone, Rows(stack, names)))


@pytest.mark.parametrize("router", ROUTERS)
def test_fewer_candidates_than_top_k_leave_the_rest_unapplied(router, make_stack, x):
    allowed = torch.zeros(12, dtype=torch.bool)
    allowed[4] = True
    choice = router.route(x, make_stack(), allowed=allowed)
    assert ((choice.rows == 4).sum(-1) == 1).all()
    assert ((choice.rows == -1) == (choice.weights == 0)).all()
    torch.testing.assert_close(choice.weights.sum(-1), torch.ones(N_TOKENS, dtype=x.dtype))


@pytest.mark.parametrize("router", ROUTERS)
def test_nothing_allowed_means_nothing_applied_and_says_so(router, make_stack, x):
    stack = make_stack()
    choice = router.route(x, stack, allowed=torch.zeros(12, dtype=torch.bool))
    assert (choice.rows == -1).all()
    assert update(choice, stack).abs().max() == 0


@pytest.mark.parametrize("router", ROUTERS)
def test_an_empty_stack_applies_nothing_and_says_so(router, x):
    class Empty:
        arrow, singular = torch.zeros(0, D_IN), torch.zeros(0, 2)

    choice = router.route(x, Empty())
    assert choice.rows.shape == (N_TOKENS, 1)
    assert (choice.rows == -1).all()
    assert not choice.weights.any()


@pytest.mark.parametrize("router", ROUTERS)
def test_one_adapter_is_chosen_with_weight_one(router, make_stack, x):
    choice = router.route(x, make_stack(1))
    assert (choice.rows == 0).all()
    assert (choice.weights == 1).all()


def test_no_tokens_is_no_choice(make_stack, x):
    for router in ROUTERS:
        assert router.route(x[:0], make_stack()).rows.shape[0] == 0


def test_arrow_weights_are_a_softmax_over_its_top_k(make_stack, x):
    stack = make_stack()
    choice = Arrow(3, 0.25).route(x, stack)
    scores = arrow_scores(x, stack.arrow)
    torch.testing.assert_close(
        choice.scores.sort(dim=-1, descending=True).values, scores.topk(3).values
    )
    torch.testing.assert_close(choice.weights, torch.softmax(choice.scores / 0.25, dim=-1))


def test_a_floor_leaves_tokens_on_the_base_and_keeps_their_score(make_stack, x):
    stack = make_stack()
    free = LAG(4).route(x, stack)
    floor = float(free.scores.median())
    floored = LAG(4, floor=floor).route(x, stack)
    below = free.scores < floor
    assert 0 < below.sum() < N_TOKENS
    assert torch.equal(floored.rows == -1, below)
    assert torch.equal(floored.scores, free.scores)
    assert update(floored, stack)[below[:, 0]].abs().max() == 0


@pytest.mark.parametrize(("keep", "k_min", "k_max"), [(0.5, 1, 64), (0.8, 3, 5), (0.0, 1, 4)])
def test_adaptive_reranks_what_its_rule_says_and_no_more(keep, k_min, k_max, make_stack, x):
    stack = make_stack(20)
    router = LAG("adaptive", "norm", keep=keep, k_min=k_min, k_max=k_max)
    arrow = arrow_scores(x, stack.arrow)
    z = torch.einsum("nrd,td->tnr", stack.A(torch.arange(20)), x)
    norms = rerank_scores(z, stack.singular, "norm")
    chosen = router.route(x, stack).rows[:, 0].tolist()
    for t in range(N_TOKENS):
        above = int((arrow[t] >= keep * arrow[t].max()).sum())
        k = min(max(above, k_min), k_max, 20)
        candidates = arrow[t].topk(k).indices
        assert chosen[t] == candidates[norms[t, candidates].argmax()]


def test_adaptive_without_a_threshold_is_spectr(make_stack, x):
    stack = make_stack()
    adaptive = LAG("adaptive", keep=0.0, k_max=12).route(x, stack)
    assert torch.equal(adaptive.rows, SpectR().route(x, stack).rows)


def test_the_factors_read_for_a_token_follow_k(make_stack, x):
    for n in (12, 48):
        stack = make_stack(n)
        LAG(4).route(x[:1], stack)
        assert len(stack.rows_read) == 4
        stack.rows_read.clear()
        LAG("adaptive", keep=0.0, k_max=7).route(x[:1], stack)
        assert len(stack.rows_read) == 7


def test_many_tokens_read_each_adapter_once(make_stack):
    stack = make_stack(40, d_in=256)
    x = torch.randn(300, 256, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    LAG(5).route(x, stack)
    assert len(stack.rows_read) == len(set(stack.rows_read)) <= 40


@pytest.mark.parametrize(
    "make",
    [
        lambda: Arrow(0),
        lambda: Arrow(1.5),
        lambda: Arrow(1, 0.0),
        lambda: Arrow(1, math.nan),
        lambda: SpectR(-1),
        lambda: SpectR(1, "cosine"),
        lambda: LAG(0),
        lambda: LAG(True),
        lambda: LAG("all"),
        lambda: LAG(5, "best"),
        lambda: LAG(5, floor=math.inf),
        lambda: LAG("adaptive", keep=1.5),
        lambda: LAG("adaptive", k_min=5, k_max=4),
        lambda: LAG(approximate="false"),
        lambda: LAG(approximate=1),
        lambda: Arrow(approximate=None),
    ],
)
def test_options_out_of_range_are_refused(make):
    with pytest.raises(PlanError, match="Found"):
        make()


def test_adaptive_projects_no_more_than_each_token_reranks(make_stack, monkeypatch):
    stack = make_stack(40)
    generator = torch.Generator().manual_seed(6)
    x = torch.randn(50, D_IN, generator=generator, dtype=torch.float64)
    x[:25] = stack.arrow[3] + 0.01 * x[:25]  # one clear direction
    places = []

    def project(x, rows, stack):
        places.append((rows >= 0).sum(-1))
        return GROUPED.project(x, rows, stack)

    LAG("adaptive", keep=0.9).route(x, stack, form=GROUPED._replace(project=project))
    arrow = arrow_scores(x, stack.arrow)
    above = (arrow >= 0.9 * arrow.amax(-1, keepdim=True)).sum(-1)
    assert torch.equal(places[0], above)
    assert (above[:25] == 1).all()
