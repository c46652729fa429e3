import warnings

import pytest
import torch

from ssfnas.data import stratified_halves


def test_every_class_is_halved_and_nothing_lost():
    labels = torch.cat([torch.full((n,), c) for c, n in enumerate([50, 7, 2, 13])])
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    weights, alphas = stratified_halves(labels, 5)
    assert torch.equal(torch.cat([weights, alphas]).sort().values, torch.arange(len(labels)))
    assert torch.bincount(labels[weights]).tolist() == [25, 4, 1, 7]
    assert torch.bincount(labels[alphas]).tolist() == [25, 3, 1, 6]


def test_halves_are_a_function_of_the_seed():
    labels = torch.arange(3).repeat(20)
    first, second, other = (stratified_halves(labels, seed) for seed in (1, 1, 2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[0], other[0])


def test_a_single_image_trains_the_weights_with_a_warning():
    with pytest.warns(UserWarning, match="class 1: a single training image"):
        weights, alphas = stratified_halves(torch.tensor([0, 0, 1, 0, 0]), 0)
    assert 2 in weights.tolist()
    assert len(alphas) == 2
    with pytest.warns(UserWarning, match="class 'gnu': a single training image"):
        stratified_halves(torch.tensor([0, 0, 1, 0, 0]), 0, ("cat", "gnu"))


def test_several_labels_are_halved_by_label_set_and_by_label():
    generator = torch.Generator().manual_seed(0)
    probabilities = torch.tensor([0.5, 0.3, 0.1, 0.05, 0.02])
    labels = (torch.rand((2000, 5), generator=generator) < probabilities).float()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        weights, alphas = stratified_halves(labels, 0)
    assert torch.equal(torch.cat([weights, alphas]).sort().values, torch.arange(2000))
    assert len(weights) == len(alphas)
    difference = (labels[weights].sum(0) - labels[alphas].sum(0)).abs()
    # A pair differs in a label only where two label sets meet: 2**5 sets at most.
    assert difference.max() <= 8
    code = (labels * 2 ** torch.arange(5)).sum(1)
    for value in code.unique():
        assert abs(int((code[weights] == value).sum() - (code[alphas] == value).sum())) <= 2


@pytest.mark.parametrize("seed", range(8))
def test_a_label_with_a_single_positive_trains_the_weights(seed):
    labels = torch.zeros(11, 3)
    labels[::2, 0] = 1
    labels[3, 1] = 1
    labels[1::2, 2] = 1
    with pytest.warns(UserWarning, match="label 1: a single training positive image"):
        weights, alphas = stratified_halves(labels, seed)
    assert 3 in weights.tolist()
    assert len(weights) == 6
    assert len(alphas) == 5
