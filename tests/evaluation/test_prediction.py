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
