"""Losses of images with one label each, and the registry of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssfnas.declarations.losses import LOSSES
from ssfnas.errors import RequestError


def make_loss(name: str, class_counts: Sequence[float], **options: Any) -> nn.Module:
    """The loss of that name: (logits, labels, class_weights=None) -> scalar.

    Args:
        name: of the registry :data:`~ssfnas.declarations.losses.LOSSES`.
        class_counts: training images of each class, as they are drawn (so not always integers).
        options: of losses; the loss gets its own, the values given, else the defaults.

    Raises:
        RequestError: there is no such loss, or a class without images where that has no meaning.
        TypeError: no loss has such an option.
    """
    return LOSSES.build(name, options, class_counts)


def at_least_float32(x: Tensor) -> Tensor:
    """``x`` in float32 where it is of lower precision."""
    return x.float() if x.dtype.itemsize < 4 else x


def positive_counts(class_counts: Sequence[float], loss: str) -> Tensor:
    """The counts as float64 [C], if every class has images.

    Raises:
        RequestError: a class has none.
    """
    counts = torch.tensor([float(count) for count in class_counts], dtype=torch.float64)
    empty = [c for c, count in enumerate(counts.tolist()) if not count > 0]
    if empty:
        raise RequestError(
            f"loss '{loss}': class {empty[0]} has no training images: every class needs some; "
            "'ce' and 'focal' do without"
        )
    return counts


class ClassificationLoss(nn.Module):
    """Mean over the batch of sum_c t_c w_c l_c(z), t the label as a distribution.

    For a single label that is w_y l_y(z), and for mixed labels the expected loss over them. Weights
    are scaled to a mean of 1 over the classes, and the sum is divided by the number of images, not
    by their weights: so the mean over processes with equal shares of a batch is that of the whole.
    """

    def per_class(self, logits: Tensor) -> Tensor:
        """l_c(z) [N, C]: what an image costs if its class is c, for logits [N, C]."""
        raise NotImplementedError

    def forward(
        self, logits: Tensor, labels: Tensor, class_weights: Tensor | None = None
    ) -> Tensor:
        """The loss, a scalar of at least float32.

        Args:
            logits: floating [N, C].
            labels: int64 [N], or distributions [N, C] (mixup).
            class_weights: [C], of any scale; None: all 1.
        """
        costs = self.per_class(at_least_float32(logits))
        if class_weights is not None:
            costs = costs * (class_weights / class_weights.mean()).to(costs.dtype)
        if labels.dim() == 1:
            return costs.gather(1, labels[:, None]).sum() / len(logits)
        return (labels.to(costs.dtype) * costs).sum() / len(logits)


class CrossEntropy(ClassificationLoss):
    """l_c = -log softmax(z)_c, with optional label smoothing.

    Args:
        label_smoothing: share of each label that is spread over all classes.
    """

    def __init__(self, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing

    def per_class(self, logits: Tensor) -> Tensor:
        """Cost of each class [N, C]."""
        return -F.log_softmax(logits, dim=1)

    def forward(
        self, logits: Tensor, labels: Tensor, class_weights: Tensor | None = None
    ) -> Tensor:
        """The loss; see :class:`ClassificationLoss`."""
        if self.label_smoothing:
            classes = logits.shape[1]
            hard = F.one_hot(labels, classes) if labels.dim() == 1 else labels
            kept = hard.to(at_least_float32(logits).dtype) * (1 - self.label_smoothing)
            labels = kept + self.label_smoothing / classes
        return super().forward(logits, labels, class_weights)


class LogitAdjustedCrossEntropy(CrossEntropy):
    """Cross-entropy of z + tau log p with p the classes' shares; for tau = 1 balanced softmax.

    Args:
        class_counts: training images of each class, each above 0; only their shares count.
        tau: strength.
        label_smoothing: see :class:`CrossEntropy`.

    Raises:
        RequestError: a class has no images.

    Source: Menon et al., arXiv 2007.07314; balanced softmax is Ren et al., arXiv 2007.10740.
    """

    log_prior: Tensor

    def __init__(
        self, class_counts: Sequence[float], tau: float = 1.0, label_smoothing: float = 0.0
    ) -> None:
        super().__init__(label_smoothing)
        counts = positive_counts(class_counts, "logit-adjusted")
        self.tau = tau
        self.register_buffer("log_prior", (counts / counts.sum()).log(), persistent=False)

    def per_class(self, logits: Tensor) -> Tensor:
        """Cost of each class [N, C]."""
        return super().per_class(logits + self.tau * self.log_prior.to(logits.dtype))


def cross_entropy(class_counts: Sequence[float], label_smoothing: float) -> nn.Module:
    """Cross-entropy, whatever the class counts."""
    return CrossEntropy(label_smoothing)
