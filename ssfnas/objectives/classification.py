"""Losses of labelled images: cross-entropy and its long-tailed kin."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssfnas.errors import RequestError
from ssfnas.registry import Registry

LOSSES: Registry[Callable[..., nn.Module]] = Registry("loss")


def effective_number_weights(class_counts: Sequence[int], beta: float) -> Tensor:
    """Class weights (1 - beta) / (1 - beta^n), scaled to a mean of 1 over the classes.

    Args:
        class_counts: n of each class, at least 1.
        beta: 0 weighs all classes alike; the nearer to 1, the more by 1 / n.

    Returns:
        float32 [C].

    Source: Cui et al., arXiv 1901.05555.
    """
    counts = torch.tensor(class_counts, dtype=torch.float64)
    weights = (1 - beta) / (1 - beta**counts)
    return (weights * len(counts) / weights.sum()).float()


def soft_labels(labels: Tensor, num_classes: int, dtype: torch.dtype) -> Tensor:
    """Labels as distributions [N, C]: int64 [N] one-hot, floating [N, C] as they are."""
    if labels.ndim == 2:
        return labels.to(dtype)
    return F.one_hot(labels, num_classes).to(dtype)


class ClassificationLoss(nn.Module):
    """Mean over the batch of sum_c t_c w_c l_c(z), t the label as a distribution.

    Weights have a mean of 1 over the classes and the sum is divided by the number of images, not by
    their weights, so that the mean over processes with equal shares of a batch is that of the whole.
    """

    def per_class(self, logits: Tensor) -> Tensor:
        """l_c(z) [N, C]: what an image of class c costs, for logits [N, C]."""
        raise NotImplementedError

    def forward(
        self, logits: Tensor, labels: Tensor, class_weights: Tensor | None = None
    ) -> Tensor:
        """The loss, a scalar.

        Args:
            logits: floating [N, C].
            labels: int64 [N], or distributions [N, C] (mixup).
            class_weights: [C]; None: all 1.
        """
        costs = self.per_class(logits)
        targets = soft_labels(labels, logits.shape[1], costs.dtype)
        if class_weights is not None:
            targets = targets * class_weights.to(costs.dtype)
        return (targets * costs).sum() / len(logits)


class CrossEntropy(ClassificationLoss):
    """-log softmax(z)_c, with optional label smoothing.

    Args:
        label_smoothing: share of the label that is spread over all classes.
    """

    def __init__(self, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing

    def per_class(self, logits: Tensor) -> Tensor:
        """Cost of each class [N, C]."""
        costs = -logits.log_softmax(dim=1)
        if self.label_smoothing:
            smooth = costs.mean(dim=1, keepdim=True)
            costs = (1 - self.label_smoothing) * costs + self.label_smoothing * smooth
        return costs


class LogitAdjustedCrossEntropy(CrossEntropy):
    """Cross-entropy of z + tau log p; with tau = 1 the balanced softmax.

    Args:
        class_counts: training images of each class, each above 0; shares count, not sizes.
        tau: strength.
        label_smoothing: see :class:`CrossEntropy`.

    Source: Menon et al., arXiv 2007.07314; Ren et al., arXiv 2007.10740.
    """

    log_prior: Tensor

    def __init__(
        self, class_counts: Sequence[float], tau: float = 1.0, label_smoothing: float = 0.0
    ) -> None:
        super().__init__(label_smoothing)
        counts = torch.tensor([float(count) for count in class_counts], dtype=torch.float64)
        if not bool((counts > 0).all()):
            raise RequestError(
                f"class sizes {list(class_counts)}: logit adjustment needs images of every class"
            )
        self.tau = tau
        self.register_buffer("log_prior", (counts / counts.sum()).log(), persistent=False)

    def per_class(self, logits: Tensor) -> Tensor:
        """Cost of each class [N, C]."""
        return super().per_class(logits + self.tau * self.log_prior.to(logits.dtype))


class FocalLoss(ClassificationLoss):
    """-(1 - p_c)^gamma log p_c.

    Args:
        gamma: 0 is cross-entropy.

    Source: Lin et al., arXiv 1708.02002.
    """

    def __init__(self, gamma: float = 2.0) -> None:
        super().__init__()
        self.gamma = gamma

    def per_class(self, logits: Tensor) -> Tensor:
        """Cost of each class [N, C]."""
        log_p = logits.log_softmax(dim=1)
        # 1 - p as expm1 keeps gradients of confident predictions finite for any gamma.
        return -((-torch.expm1(log_p)).clamp_min(1e-12) ** self.gamma) * log_p


class ClassBalancedCrossEntropy(CrossEntropy):
    """Cross-entropy weighted by the effective numbers of the classes' images.

    Args:
        class_counts: training images of each class.
        beta: see :func:`effective_number_weights`.
    """

    balance: Tensor

    def __init__(self, class_counts: Sequence[int], beta: float = 0.9999) -> None:
        super().__init__()
        weights = effective_number_weights(class_counts, beta)
        self.register_buffer("balance", weights, persistent=False)

    def forward(
        self, logits: Tensor, labels: Tensor, class_weights: Tensor | None = None
    ) -> Tensor:
        """The loss, a scalar; ``class_weights`` multiply its own."""
        own = self.balance if class_weights is None else self.balance * class_weights
        return super().forward(logits, labels, own)


class LDAMLoss(ClassificationLoss):
    """Cross-entropy of scaled cosines, the true class' lowered by a margin ~ n_c^(-1/4).

    Args:
        class_counts: training images of each class.
        max_margin: that of the smallest class.
        scale: factor of the cosines, which :class:`CosineClassifier` gives as logits.

    Source: Cao et al., arXiv 1906.07413.
    """

    margins: Tensor

    def __init__(
        self, class_counts: Sequence[int], max_margin: float = 0.5, scale: float = 30.0
    ) -> None:
        super().__init__()
        margins = torch.tensor(class_counts, dtype=torch.float64) ** -0.25
        self.register_buffer("margins", max_margin * margins / margins.max(), persistent=False)
        self.scale = scale

    def per_class(self, logits: Tensor) -> Tensor:
        """Cost of each class [N, C]: with the margin taken from that class alone."""
        z = self.scale * logits
        lowered = z - self.scale * self.margins.to(logits.dtype)
        # Of class c: log(sum_{j != c} e^z_j + e^lowered_c) - lowered_c, stable from the maximum.
        top = z.max(dim=1, keepdim=True).values
        exp = (z - top).exp()
        total = exp.sum(dim=1, keepdim=True)
        own = (lowered - top).exp()
        return (total - exp + own).clamp_min(torch.finfo(z.dtype).tiny).log() + top - lowered


class CosineClassifier(nn.Module):
    """Cosines between features and class vectors, the head that LDAM wants.

    Args:
        in_features: F.
        num_classes: C.
        seed: of the initial class vectors.
    """

    def __init__(self, in_features: int, num_classes: int, seed: int = 0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_classes, in_features))
        self.seed = seed
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the class vectors."""
        draws = torch.Generator().manual_seed(self.seed)
        with torch.no_grad():
            values = torch.randn(self.weight.shape, generator=draws)
            self.weight.copy_(F.normalize(values, dim=1))

    def forward(self, features: Tensor) -> Tensor:
        """Cosines [N, C] of features [N, F]."""
        return F.linear(F.normalize(features, dim=1), F.normalize(self.weight, dim=1))


class MultiLabelLoss(nn.Module):
    """Mean binary cross-entropy of every label."""

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """A scalar for logits [N, L] and labels 0/1 [N, L]."""
        return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))


@LOSSES.register("ce")
def _ce(class_counts: Sequence[float], **options: Any) -> nn.Module:
    return CrossEntropy(options.get("label_smoothing", 0.0))


@LOSSES.register("logit-adjusted")
def _logit_adjusted(class_counts: Sequence[float], **options: Any) -> nn.Module:
    return LogitAdjustedCrossEntropy(
        class_counts, options.get("tau", 1.0), options.get("label_smoothing", 0.0)
    )


@LOSSES.register("focal")
def _focal(class_counts: Sequence[float], **options: Any) -> nn.Module:
    return FocalLoss(options.get("gamma", 2.0))


@LOSSES.register("class-balanced")
def _class_balanced(class_counts: Sequence[int], **options: Any) -> nn.Module:
    return ClassBalancedCrossEntropy(class_counts, options.get("beta", 0.9999))


@LOSSES.register("ldam")
def _ldam(class_counts: Sequence[int], **options: Any) -> nn.Module:
    return LDAMLoss(class_counts, options.get("max_margin", 0.5), options.get("scale", 30.0))


def make_loss(name: str, class_counts: Sequence[float], **options: Any) -> nn.Module:
    """The loss of that name.

    Args:
        name: of the registry :data:`LOSSES`.
        class_counts: what the classes' shares of the training images are taken from.
        options: tau, gamma, beta, max_margin, scale, label_smoothing; a loss takes what it knows.
    """
    return LOSSES.get(name)(class_counts, **options)
