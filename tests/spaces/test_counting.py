"""Counts against sums by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ssfnas.spaces import PUBLISHED, DerivedNetwork, count_multiply_adds, count_parameters


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_multiply_adds_by_hand(device):
    net = nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1, bias=False),
        nn.BatchNorm2d(6),
        nn.Conv2d(6, 6, 5, stride=2, padding=2, groups=6),
        nn.Conv2d(6, 4, 1, groups=2),
        nn.Flatten(),
        nn.Linear(4 * 5 * 4, 10),
    ).to(device)
    wanted = 10 * 8 * 6 * 2 * 9 + 5 * 4 * 6 * 25 + 5 * 4 * 4 * 3 + 80 * 10
    assert count_multiply_adds(net, (10, 8), 2) == wanted
    assert count_parameters(net) == 6 * 2 * 9 + 12 + 6 * 26 + 4 * 3 + 4 + 810


def test_counting_leaves_the_network_as_it_was():
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.AdaptiveMaxPool2d(1)
    )
    net[1].eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    random = torch.get_rng_state()
    assert count_multiply_adds(net.double(), 8) == 36 * 4 * 27
    assert net.training
    assert net[0].training
    assert not net[1].training
    assert torch.equal(torch.get_rng_state(), random)
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name].to(value.dtype))


def test_a_network_in_training_is_counted_as_it_is_used():
    net = DerivedNetwork(PUBLISHED["DARTS_V1"], channels=4, layers=3, auxiliary=True).train()
    plain = DerivedNetwork(PUBLISHED["DARTS_V1"], channels=4, layers=3).eval()
    assert count_multiply_adds(net) == count_multiply_adds(plain)
    # Twice the side, four times the pixels; only the classifier sees one pixel in both.
    classifier = net.num_features * 10
    assert count_multiply_adds(net, 64) - classifier == 4 * (count_multiply_adds(net) - classifier)
