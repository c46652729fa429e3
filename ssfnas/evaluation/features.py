"""A network over many images, and its features in timm's form: what comes before its classifier."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from ssfnas.data import ImageData, ImageSet, iterate

MOST_PIXELS = 2**21
"""Pixels a pass takes at most: 256 images of 90 x 90, 41 of 224 x 224.

On a CPU a network of 20 cells and 36 channels took 0.24 GiB for 20 images of 224 x 224.
"""


@torch.no_grad()
def over_images(
    net: nn.Module,
    compute: Callable[[nn.Module, Tensor], Tensor],
    images: ImageSet,
    data: ImageData,
    *,
    batch_size: int,
    device: torch.device,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """What ``compute`` makes of un-augmented images with ``net`` in evaluation mode.

    Args:
        net: the network.
        compute: ``net``, images [n, C, H, W] on ``device`` -> [n, ...].
        images: N of them, in order.
        data: whose statistics normalize, and whose workers decode.
        batch_size: images a call; fewer where they would have more than ``MOST_PIXELS``, which
            changes nothing of what comes out of each.
        device: where to compute.
        dtype: of the images.

    Returns:
        results [N, ...] and labels, both on ``device``.
    """
    height, width = images.image_size
    batch_size = min(batch_size, max(1, MOST_PIXELS // (height * width)))
    training = net.training
    net.eval()
    results, labels = [], []
    try:
        for x, y in iterate(
            images, batch_size, mean=data.mean, std=data.std,
            device=device, dtype=dtype, workers=data.workers,
        ):  # fmt: skip
            results.append(compute(net, x))
            labels.append(y)
    finally:
        net.train(training)
    return torch.cat(results), torch.cat(labels)


def pooled(net: nn.Module, x: Tensor) -> Tensor:
    """Features [N, F] before the classifier, for images [N, C, H, W]."""
    timm_like = cast(Any, net)
    features: Tensor = timm_like.forward_head(timm_like.forward_features(x), pre_logits=True)
    return features


def features_of(net: nn.Module) -> int:
    """F, the number of pooled features that the classifier sees."""
    timm_like = cast(Any, net)
    return int(getattr(timm_like, "head_hidden_size", None) or timm_like.num_features)


def classifier_of(net: nn.Module) -> nn.Module:
    """The last layer, from features to logits."""
    classifier: nn.Module = cast(Any, net).get_classifier()
    return classifier
