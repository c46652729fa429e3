"""Which images the nearest-neighbor monitor looks at, and what it makes of them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from ssfnas.data import ImageData, ImageSet
from ssfnas.evaluation import monitor
from ssfnas.evaluation.knn import knn_accuracy
from ssfnas.evaluation.monitor import FeatureMonitor

CPU = torch.device("cpu")
HALVES = torch.arange(0, 40, 2), torch.arange(1, 40, 2)


class Colors(nn.Module):
    """The mean color of an image is its feature."""

    def forward_features(self, x):
        assert not self.training
        return x

    def forward_head(self, x, pre_logits):
        assert pre_logits
        return x.mean((2, 3))


@pytest.fixture
def data():
    draws = torch.Generator().manual_seed(0)
    labels = torch.arange(40) % 3
    images = torch.randint(0, 200, (40, 4, 4, 3), generator=draws) + 20 * labels.view(-1, 1, 1, 1)
    return ImageData(
        name="colors",
        class_names=("a", "b", "c"),
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
        train=ImageSet(images.to(torch.uint8), labels),
        validation=None,
        test=None,
    )


def monitored(data, seed=1):
    return FeatureMonitor(data, HALVES, seed=seed, device=CPU, dtype=torch.float64)


def test_all_images_of_both_halves_where_they_are_few(data):
    net = Colors().train()
    values = monitored(data).measure(net, seen=40)
    assert net.training
    features = (data.train.images.double() / 255).mean((1, 2)) * 4 - 2
    first, second = HALVES
    labels = data.train.labels
    expected = {"knn/images": [20, 20]}
    for name, corrected in (("knn", False), ("knn_corrected", True)):
        found = knn_accuracy(
            features[first], labels[first], features[second], labels[second], 3,
            prior_correction=corrected,
        )  # fmt: skip
        expected |= {f"{name}/{measure}": pytest.approx(v) for measure, v in found.items()}
    assert values == expected


@pytest.mark.parametrize(("seen", "share"), [(1, 1 / 40), (10, 1 / 4), (39, 39 / 40), (400, 1)])
def test_no_more_images_than_the_net_has_seen(data, seen, share):
    images = monitored(data).measure(Colors(), seen)["knn/images"]
    assert images == [math.ceil(20 * share)] * 2


def test_a_seed_draws_its_images_and_the_cap_holds(data, monkeypatch):
    monkeypatch.setattr(monitor, "BANK", 7)
    monkeypatch.setattr(monitor, "QUERIES", 5)
    first, again, other = (monitored(data, seed) for seed in (1, 1, 2))
    assert first.measure(Colors(), 10**6)["knn/images"] == [7, 5]
    assert torch.equal(first.bank.images, again.bank.images)
    assert not torch.equal(first.bank.images, other.bank.images)
