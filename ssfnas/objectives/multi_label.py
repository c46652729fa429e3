"""The loss of images that can have several labels."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from ssfnas.objectives.classification import at_least_float32


class MultiLabelLoss(nn.Module):
    """Binary cross-entropy, its mean over images and labels."""

    def forward(
        self, logits: Tensor, labels: Tensor, class_weights: Tensor | None = None
    ) -> Tensor:
        """The loss, a scalar of at least float32.

        Args:
            logits: floating [N, L].
            labels: 0 or 1 [N, L], any dtype.
            class_weights: [L], scaled to a mean of 1; None: all 1.
        """
        logits = at_least_float32(logits)
        if class_weights is not None:
            class_weights = (class_weights / class_weights.mean()).to(logits.dtype)
        return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype), class_weights)
