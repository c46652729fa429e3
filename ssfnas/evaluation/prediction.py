"""Logits of a network on a part of the data, and what they are worth."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ssfnas.data import ImageData, ImageSet
from ssfnas.evaluation.classification_metrics import evaluate_predictions
from ssfnas.evaluation.features import classifier_of, over_images
from ssfnas.evaluation.networks import logits_of
from ssfnas.objectives.classification import at_least_float32
from ssfnas.runs.data_card import DataCard
from ssfnas.runtime.precision import autocast


def predict(
    net: nn.Module,
    images: ImageSet,
    data: ImageData,
    *,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    precision: str = "fp32",
    batch_size: int = 256,
) -> tuple[Tensor, Tensor]:
    """Logits of un-augmented images in evaluation mode.

    Args:
        net: takes images [n, C, H, W] on ``device``.
        images: N of them, in order.
        data: whose statistics normalize.
        device: where to compute.
        dtype: of the images.
        precision: fp32, bf16 or fp16.
        batch_size: images a forward pass.

    Returns:
        logits [N, classes] and labels, both on ``device``; logits at least float32.
    """

    def compute(net: nn.Module, x: Tensor) -> Tensor:
        with autocast(precision, device):
            output = logits_of(net(x))
        return at_least_float32(output)

    return over_images(
        net, compute, images, data, batch_size=batch_size, device=device, dtype=dtype
    )


def predict_with_features(
    net: nn.Module,
    images: ImageSet,
    data: ImageData,
    *,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    batch_size: int = 256,
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits as :func:`predict` gives them, and what the classifier made them of, in one pass.

    Args:
        net: with a classifier that takes features [n, F].
        images, data, device, dtype, batch_size: see :func:`predict`.

    Returns:
        logits [N, classes], features [N, F] and labels, all on ``device``.
    """
    taken: list[Tensor] = []
    hook = classifier_of(net).register_forward_pre_hook(lambda _, given: taken.append(given[0]))

    def compute(net: nn.Module, x: Tensor) -> Tensor:
        logits = logits_of(net(x))
        return torch.cat([logits, taken.pop()], dim=1)

    try:
        both, labels = over_images(
            net, compute, images, data, batch_size=batch_size, device=device, dtype=dtype
        )
    finally:
        hook.remove()
    return both[:, : data.num_classes], both[:, data.num_classes :], labels


def measure(
    logits: Tensor, labels: Tensor, card: DataCard, *, thirds: bool = False
) -> dict[str, Any]:
    """All metrics of predictions, grouped by the class sizes that the network was trained on."""
    return evaluate_predictions(
        logits.cpu(), labels.cpu(), card.class_counts, multi_label=card.multi_label, thirds=thirds
    )
