"""Nearest-neighbor accuracy of a network's features, the search's label-free progress measured."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ssfnas.data import ImageData, ImageSet
from ssfnas.evaluation.features import over_images, pooled
from ssfnas.evaluation.knn import knn_accuracy
from ssfnas.seeding import generator

BANK = 4096
QUERIES = 2048


def pooled_features(
    net: nn.Module,
    images: ImageSet,
    data: ImageData,
    *,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    """Pooled features of un-augmented images in evaluation mode, and their labels.

    Args:
        net: has ``forward_features`` and ``forward_head(..., pre_logits=True)``.
        images: N of them.
        data: whose statistics normalize.
        device: where to compute.
        dtype: of the images.

    Returns:
        features float32 or float64 [N, F] and labels, both on ``device``.
    """
    # A CPU is fastest while a batch's activations fit its cache.
    batch_size = 256 if device.type == "cuda" else 32
    return over_images(net, pooled, images, data, batch_size=batch_size, device=device, dtype=dtype)


class FeatureMonitor:
    """kNN accuracy from D_w to D_alpha, on at most 4,096 and 2,048 images drawn once.

    An image costs about a tenth of what a bilevel step spends on one, so a run that is shorter
    than an epoch is measured on no more images than it has seen.

    Labels are used to measure only: nothing of it reaches the search.

    Args:
        data: single-label data.
        halves: indices of D_w and D_alpha.
        seed: the run's.
        device: where to compute.
        dtype: of the images.
    """

    def __init__(
        self,
        data: ImageData,
        halves: tuple[Tensor, Tensor],
        *,
        seed: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.data, self.device, self.dtype = data, device, dtype
        draws = generator(seed, "knn")
        chosen = [
            half[torch.randperm(len(half), generator=draws)[:most]]
            for half, most in zip(halves, (BANK, QUERIES), strict=True)
        ]
        self.bank, self.queries = (data.train.subset(indices) for indices in chosen)

    def measure(self, net: nn.Module, seen: int) -> dict[str, Any]:
        """Top-1 and balanced accuracy, with and without prior-corrected votes.

        Args:
            net: whose features.
            seen: images that it has been trained on, repetitions counted.

        Returns:
            accuracies in 0..1, and as ``knn/images`` how many images there were to choose
            neighbors from, and how many were classified.
        """
        share = min(1.0, seen / (len(self.bank) + len(self.queries)))
        parts = [
            images.subset(torch.arange(math.ceil(share * len(images))))
            for images in (self.bank, self.queries)
        ]
        bank, queries = (
            pooled_features(net, images, self.data, device=self.device, dtype=self.dtype)
            for images in parts
        )
        values: dict[str, Any] = {"knn/images": [len(images) for images in parts]}
        for name, corrected in (("knn", False), ("knn_corrected", True)):
            result = knn_accuracy(
                *bank, *queries, self.data.num_classes, prior_correction=corrected
            )
            values |= {f"{name}/{measure}": value for measure, value in result.items()}
        return values
