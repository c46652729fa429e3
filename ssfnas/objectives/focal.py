"""Focal loss."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssfnas.objectives.classification import ClassificationLoss


class FocalLoss(ClassificationLoss):
    """l_c = -(1 - p_c)^gamma log p_c with p = softmax(z).

    Args:
        gamma: 0 is cross-entropy.

    Source: Lin et al., arXiv 1708.02002.
    """

    def __init__(self, gamma: float = 2.0) -> None:
        super().__init__()
        self.gamma = gamma

    def per_class(self, logits: Tensor) -> Tensor:
        """Cost of each class [N, C]."""
        log_p = F.log_softmax(logits, dim=1)
        # Below gamma = 1 the power has an infinite slope at p = 1.
        missing = (-torch.expm1(log_p)).clamp_min(torch.finfo(log_p.dtype).tiny)
        return -(missing**self.gamma) * log_p


def focal_loss(class_counts: Sequence[float], gamma: float) -> nn.Module:
    """Focal loss, whatever the class counts."""
    return FocalLoss(gamma)
