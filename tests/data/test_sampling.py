import itertools

import pytest
import torch

from ssfnas.data import IndexStream
from ssfnas.errors import RequestError

COUNTS = [400, 80, 16, 4]
LABELS = torch.repeat_interleave(torch.arange(4), torch.tensor(COUNTS))


@pytest.mark.parametrize("exponent", [1.0, 0.5, 0.0])
def test_slices_do_not_depend_on_how_they_are_cut(exponent):
    indices = torch.arange(0, 500, 3)
    whole = IndexStream(LABELS, indices, 7, exponent).slice(0, 1000)
    cut = IndexStream(LABELS, indices, 7, exponent)
    bounds = [0, 1, 160, 167, 168, 500, 501, 1000]
    pieces = [cut.slice(a, b) for a, b in itertools.pairwise(bounds)]
    assert torch.equal(whole, torch.cat(pieces))
    assert torch.equal(IndexStream(LABELS, indices, 7, exponent).slice(911, 930), whole[911:930])
    assert cut.slice(40, 40).numel() == 0
    assert set(whole.tolist()) <= set(indices.tolist())


def test_natural_epochs_are_different_permutations():
    indices = torch.tensor([3, 9, 27, 81, 243])
    stream = IndexStream(LABELS, indices, 0)
    epochs = stream.slice(0, 5 * 50).view(50, 5)
    assert torch.equal(epochs.sort(1).values, indices.expand(50, 5))
    assert len({tuple(epoch.tolist()) for epoch in epochs}) > 30


def test_the_seed_changes_the_order():
    indices = torch.arange(500)
    one, other = (IndexStream(LABELS, indices, seed).slice(0, 500) for seed in (0, 1))
    assert not torch.equal(one, other)


@pytest.mark.parametrize("exponent", [0.0, 0.5, 0.75])
def test_classes_are_drawn_in_proportion_to_their_size_to_the_exponent(exponent):
    draws = 200_000
    stream = IndexStream(LABELS, torch.arange(500), 11, exponent)
    taken = stream.slice(0, draws)
    weights = torch.tensor(COUNTS, dtype=torch.float64) ** exponent
    expected = weights / weights.sum()
    measured = torch.bincount(LABELS[taken], minlength=4) / draws
    deviation = (expected * (1 - expected) / draws).sqrt()
    assert ((measured - expected).abs() < 5 * deviation).all()
    within = torch.bincount(taken[LABELS[taken] == 3] - 496, minlength=4).double()
    assert ((within / within.sum() - 0.25).abs() < 5 * (0.1875 / within.sum()).sqrt()).all()


def test_an_absent_class_is_never_drawn():
    indices = torch.cat([torch.arange(400), torch.arange(496, 500)])
    taken = IndexStream(LABELS, indices, 0, 0.0).slice(0, 5000)
    assert set(LABELS[taken].tolist()) == {0, 3}


@pytest.mark.parametrize(
    ("labels", "indices", "exponent", "words"),
    [
        (LABELS, [], 1.0, "no images"),
        (LABELS, [0], 1.5, "from 0 to 1"),
        (LABELS, [0], float("nan"), "from 0 to 1"),
        (torch.zeros(3, 2), [0], 0.5, "several labels"),
    ],
)
def test_stream_refuses(labels, indices, exponent, words):
    with pytest.raises(RequestError, match=words):
        IndexStream(labels, torch.tensor(indices, dtype=torch.int64), 0, exponent)


def test_several_labels_are_taken_as_they_come():
    taken = IndexStream(torch.zeros(6, 2), torch.arange(6), 0).slice(0, 6)
    assert taken.sort().values.tolist() == list(range(6))
