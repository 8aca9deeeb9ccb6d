from __future__ import annotations

from itertools import chain

import pytest
import torch

from lag_engine.documents.grouping import MemoryBound, Work, batches_of, groups
from lag_engine.documents.passages import Passage
from lag_engine.documents.sequences import TrainingSequence

ROOMY = MemoryBound(1e18, 1, 1)


def work(i, lengths):
    return Work(
        Passage(f"p{i}", "text"), [TrainingSequence(tuple(range(3, 3 + n))) for n in lengths], i, ""
    )


WORK = [
    work(i, [4 + (i * 7) % 5 for _ in range(2 + i % 2)] + [9 + (i * 11) % 13]) for i in range(20)
]


def ids(group):
    return [item.passage.id for item in group]


@pytest.mark.parametrize("bound", [ROOMY, MemoryBound(2000, 100, 20), MemoryBound(1, 1, 1)])
def test_every_passage_is_in_one_group_with_others_of_as_many_sequences(bound):
    made = groups(WORK, bound, rows=1, largest=6)
    assert sorted(chain(*map(ids, made))) == sorted(ids(WORK))
    for group in made:
        assert len({len(item.sequences) for item in group}) == 1
        longest = max(item.longest for item in group)
        assert len(group) == 1 or bound.holds(len(group), 1, longest)
        assert len(group) <= 6


def test_a_tighter_bound_makes_more_groups():
    counts = [
        len(groups(WORK, MemoryBound(n, 10, 10), rows=1, largest=64)) for n in (1, 900, 2000, 1e9)
    ]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] == len(WORK)
    assert counts[-1] == 2  # one for each number of sequences


@pytest.mark.parametrize("n_done", [1, 2, 3])
def test_what_is_left_after_some_groups_is_divided_as_before(n_done):
    bound = MemoryBound(2000, 100, 20)
    made = groups(WORK, bound, rows=1, largest=4)
    done = set(chain(*map(ids, made[:n_done])))
    left = [item for item in WORK if item.passage.id not in done]
    assert list(map(ids, groups(left, bound, rows=1, largest=4))) == list(map(ids, made[n_done:]))


def test_the_estimate_grows_with_what_it_counts(pico):
    targets = ["model.layers.0.mlp.up_proj", "model.layers.1.mlp.up_proj"]
    small = MemoryBound.of(pico.model, targets[:1], 2, 1e6)
    large = MemoryBound.of(pico.model, targets, 4, 1e6)
    assert large.per_adapter == 4 * small.per_adapter == 16 * 2 * 4 * (32 + 48)
    assert large.per_token == small.per_token
    assert large.holds(1, 1, 1)
    assert not large.holds(1000, 1, 1)


def test_batches_hold_every_sequence_in_order_and_weigh_what_is_learnt():
    group = [
        Work(
            Passage("p0", "text"),
            [TrainingSequence((5, 6, 7), 1), TrainingSequence((8,) * 5)],
            0,
            "",
        ),
        Work(Passage("p1", "text"), [TrainingSequence((9, 9)), TrainingSequence((4, 3))], 0, ""),
    ]
    first, second = batches_of(group, rows=1, pad=1)
    assert first.ids.tolist() == [[[5, 6, 7]], [[9, 9, 1]]]
    assert first.weights.tolist() == [[[0, 1, 1]], [[1, 1, 0]]]
    assert second.ids.shape == (2, 1, 5)
    assert not first.silent.any()
    (both,) = batches_of(group, rows=2, pad=1)
    assert both.ids.shape == (2, 2, 5)
    assert torch.equal(both.ids[:, 1], second.ids[:, 0])
    assert len(batches_of(group, rows=3, pad=1)) == 1
