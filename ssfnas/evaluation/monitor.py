"""Nearest-neighbor accuracy of a network's features, the search's label-free progress measured."""

from __future__ import annotations

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

    def measure(self, net: nn.Module) -> dict[str, float]:
        """Top-1 and balanced accuracy, with and without prior-corrected votes."""
        bank, queries = (
            pooled_features(net, images, self.data, device=self.device, dtype=self.dtype)
            for images in (self.bank, self.queries)
        )
        values: dict[str, float] = {}
        for name, corrected in (("knn", False), ("knn_corrected", True)):
            result = knn_accuracy(
                *bank, *queries, self.data.num_classes, prior_correction=corrected
            )
            values |= {f"{name}/{measure}": value for measure, value in result.items()}
        return values
