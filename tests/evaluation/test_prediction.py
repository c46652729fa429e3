"""Predictions and features of one pass are those of two."""

from __future__ import annotations

import pytest
import torch
from image_files import write_npz

from ssfnas.config import RetrainConfig
from ssfnas.data import load_data
from ssfnas.evaluation.features import classifier_of
from ssfnas.evaluation.monitor import pooled_features
from ssfnas.evaluation.networks import build_network
from ssfnas.evaluation.prediction import predict, predict_with_features
from ssfnas.spaces import Genotype

CPU = torch.device("cpu")


@pytest.mark.parametrize("model", ["derived", "timm:resnet18"])
def test_features_are_what_the_classifier_makes_logits_of(tmp_path, model):
    data = load_data(RetrainConfig(dataset=str(write_npz(tmp_path / "d.npz", (16, 12, 8, 4)))))
    genotype = Genotype.load("FairDARTS_a") if model == "derived" else None
    net = build_network(
        RetrainConfig(model=model, channels=4, layers=3, drop_path=0.2),
        genotype,
        num_classes=data.num_classes,
        in_channels=data.in_channels,
        image_size=data.image_size,
    ).double()
    options = {"device": CPU, "dtype": torch.float64, "batch_size": 5}
    for module in net.modules():  # running statistics that differ from batches'
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_var.mul_(0.5)
    logits, features, labels = predict_with_features(net, data.test, data, **options)
    expected, expected_labels = predict(net, data.test, data, **options)
    assert torch.equal(logits, expected)
    assert torch.equal(labels, expected_labels)
    pooled, _ = pooled_features(net, data.test, data, device=CPU, dtype=torch.float64)
    torch.testing.assert_close(features, pooled)
    classifier = classifier_of(net)
    torch.testing.assert_close(features @ classifier.weight.T + classifier.bias, logits)
    assert not classifier._forward_pre_hooks


def test_a_pass_takes_no_more_pixels_than_fit(tmp_path, monkeypatch):
    data = load_data(RetrainConfig(dataset=str(write_npz(tmp_path / "d.npz", (16, 12, 8, 4)))))
    taken = []

    class Sizes(torch.nn.Module):
        def forward(self, x):
            taken.append(len(x))
            return x.flatten(1)[:, : data.num_classes]

    options = {"device": CPU, "dtype": torch.float64}
    whole, labels = predict(Sizes(), data.test, data, **options)
    assert taken == [len(labels)]
    height, width = data.image_size
    for most, images in ((3 * height * width, 3), (height * width - 1, 1)):
        taken.clear()
        monkeypatch.setattr("ssfnas.evaluation.features.MOST_PIXELS", most)
        parts, same = predict(Sizes(), data.test, data, **options)
        assert max(taken) == images
        assert sum(taken) == len(labels)
        assert torch.equal(parts, whole)
        assert torch.equal(same, labels)
