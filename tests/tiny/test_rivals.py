"""Training modules: alone they are PEFT's update, routed they choose as the engine does."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from lag_engine.adapters import LoraModule
from lag_engine.adapters.spectral import to_spectral, to_spectral_batched
from lag_engine.routing import GROUPED, SpectR
from lag_engine.tiny.rivals import MARGIN, Labels, Rival

WIDTH, OUT, OTHERS, RANK, OWN_RANK = 24, 20, 3, 2, 4


@dataclass
class Stack:
    """A stack in memory, as the library's are read."""

    blocks_A: Tensor
    blocks_B: Tensor
    singular: Tensor

    @property
    def names(self):
        return tuple(map(str, range(len(self.blocks_A))))

    @property
    def arrow(self):
        return self.blocks_A[:, 0]

    def A(self, rows):
        return self.blocks_A[rows]

    def B(self, rows):
        return self.blocks_B[rows]


def padded(block, rank):
    return torch.cat(
        [block, block.new_zeros(*block.shape[:-2], rank - block.shape[-2], block.shape[-1])], -2
    )


@pytest.fixture
def parts():
    torch.manual_seed(0)
    base = nn.Linear(WIDTH, OUT, bias=False)
    own = LoraModule(torch.randn(OWN_RANK, WIDTH), torch.randn(OUT, OWN_RANK), 0.5)
    forms = to_spectral_batched(
        torch.randn(OTHERS, RANK, WIDTH), torch.randn(OTHERS, OUT, RANK), torch.ones(OTHERS)
    )
    return base, own, Stack(*forms)


def test_alone_it_adds_its_own_update(parts):
    base, own, others = parts
    x = torch.randn(2, 5, WIDTH)
    expected = base(x) + own.scaling * x @ own.lora_A.T @ own.lora_B.T
    torch.testing.assert_close(Rival(base, others, own)(x), expected)


def test_routed_it_adds_what_the_engines_router_chooses(parts):
    base, own, others = parts
    x = torch.randn(3, 40, WIDTH)
    rival = Rival(base, others, own)
    rival.is_routed = True
    mine = to_spectral(own.lora_A, own.lora_B, own.scaling)
    everyone = Stack(
        torch.cat([padded(others.blocks_A, OWN_RANK), mine.A[None]]),
        torch.cat([padded(others.blocks_B, OWN_RANK), mine.B[None]]),
        torch.cat([nn.functional.pad(others.singular, (0, OWN_RANK - RANK)), mine.singular[None]]),
    )
    flat = x.flatten(0, 1)
    choice = SpectR().route(flat, everyone)
    assert set(choice.rows.flatten().tolist()) == set(range(OTHERS + 1))
    update = GROUPED.apply(choice.z, choice.weights, choice.rows, everyone)
    torch.testing.assert_close(rival(x), base(x) + update.view(3, 40, OUT), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("is_wanted", [True, False])
def test_the_hinge_is_zero_exactly_where_the_right_side_leads_by_the_margin(parts, is_wanted):
    base, own, others = parts
    rival = Rival(base, others, own)
    x = torch.randn(1, 60, WIDTH)
    basis = torch.linalg.qr(own.lora_A.T).Q
    mine = (x[0] @ basis).norm(dim=-1)
    best = torch.einsum("td,nrd->tnr", x[0], others.blocks_A).norm(dim=-1).amax(-1)
    lead = (mine - best) / x[0].norm(dim=-1) * (1 if is_wanted else -1)
    for place in range(60):
        rival.labels = Labels(torch.tensor([place]), is_wanted)
        rival(x)
        torch.testing.assert_close(rival.hinge, (MARGIN - lead[place]).relu())


def test_following_the_hinge_wins_wanted_tokens_and_loses_foreign_ones(parts):
    base, own, others = parts
    rival = Rival(base, others, own)
    wanted, foreign = (torch.randn(1, 8, 3) @ torch.randn(3, WIDTH) for _ in range(2))
    optimizer = torch.optim.Adam([rival.lora_A], lr=0.02)
    for _ in range(150):
        losses = []
        for x, label in ((wanted, True), (foreign, False)):
            rival.labels = Labels(torch.arange(8), label)
            rival(x)
            losses.append(rival.hinge)
        optimizer.zero_grad()
        sum(losses).backward()
        optimizer.step()
    assert all(loss < MARGIN / 2 for loss in losses)
