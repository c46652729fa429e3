"""Weights of classes by the effective numbers of their images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ssfnas.objectives.classification import CrossEntropy, positive_counts


def effective_number_weights(class_counts: Sequence[float], beta: float) -> Tensor:
    """Class weights (1 - beta) / (1 - beta^n), scaled to a mean of 1 over the classes.

    They are the weights of class-balanced losses and of deferred re-weighting (DRW).

    Args:
        class_counts: n of each class; one without images gets the weight 0.
        beta: in [0, 1); 0 weighs all classes alike; the nearer to 1, the more by 1 / n.

    Returns:
        float32 [C].

    Source: Cui et al., arXiv 1901.05555.
    """
    counts = torch.tensor([float(count) for count in class_counts], dtype=torch.float64)
    weights = (1 - beta) / (1 - beta**counts)
    weights = torch.where(counts > 0, weights, 0.0)
    return (weights * len(counts) / weights.sum()).float()


class ClassBalancedCrossEntropy(CrossEntropy):
    """Cross-entropy weighted by :func:`effective_number_weights`.

    Args:
        class_counts: training images of each class, each above 0.
        beta: see :func:`effective_number_weights`.

    Raises:
        RequestError: a class has no images.
    """

    balance: Tensor

    def __init__(self, class_counts: Sequence[float], beta: float = 0.9999) -> None:
        super().__init__()
        positive_counts(class_counts, "class-balanced")
        weights = effective_number_weights(class_counts, beta)
        self.register_buffer("balance", weights, persistent=False)

    def forward(
        self, logits: Tensor, labels: Tensor, class_weights: Tensor | None = None
    ) -> Tensor:
        """The loss; ``class_weights`` multiply its own. See :class:`ClassificationLoss`."""
        own = self.balance if class_weights is None else self.balance * class_weights
        return super().forward(logits, labels, own)
