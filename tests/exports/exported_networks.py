"""Small networks with cards, as a retraining leaves them."""

from __future__ import annotations

import torch
from torch import nn

from ssfnas.evaluation.networks import replace_classifier
from ssfnas.exports.network_card import NetworkCard
from ssfnas.objectives import CosineClassifier
from ssfnas.runs.data_card import DataCard
from ssfnas.seeding import generator
from ssfnas.spaces import DerivedNetwork, Genotype

NAMES = ("Äpfel & <b>Birnen</b>", "猫", 'a "quoted" name')


GENOTYPE = Genotype(
    normal=[("sep_conv_3x3", 0, 2), ("max_pool_3x3", 1, 2), ("skip_connect", 2, 3)],
    normal_concat=[2, 3],
    reduce=[("dil_conv_5x5", 0, 2), ("skip_connect", 1, 2), ("avg_pool_3x3", 1, 3)],
    reduce_concat=[2, 3],
)


def card(*, channels: int = 3, size: tuple[int, int] = (12, 8), multi_label=False, **more):
    """The card of a network of three classes; images are not square."""
    data = DataCard(
        name="made up",
        class_names=NAMES,
        class_counts=(9, 3, 1),
        multi_label=multi_label,
        in_channels=channels,
        image_size=size,
        mean=(0.4, 0.5, 0.6)[:channels],
        std=(0.2, 0.25, 0.3)[:channels],
    )
    settings = {"background": "gray", "model": "derived", "weights": "last", "version": "0"}
    return NetworkCard(data=data, **{**settings, **more})


def network(*, channels: int = 3, cosines: bool = False, seed: int = 3) -> DerivedNetwork:
    """A derived network in evaluation mode, with statistics that are not the initial ones."""
    draws = generator(seed, "exported network")
    net = DerivedNetwork(
        GENOTYPE, 3, in_channels=channels, channels=4, layers=3,
        image_size=(12, 8), generator=draws,
    )  # fmt: skip
    if cosines:
        replace_classifier(net, CosineClassifier(net.num_features, 3, scale=20.0))
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.copy_(0.1 * torch.randn(module.num_features, generator=draws))
                module.running_var.copy_(0.5 + torch.rand(module.num_features, generator=draws))
                module.weight.copy_(0.5 + torch.rand(module.num_features, generator=draws))
    return net.eval()
