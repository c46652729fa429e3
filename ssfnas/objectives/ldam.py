"""Label-distribution-aware margins (LDAM), and the classifier that they are for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssfnas.objectives.classification import (
    ClassificationLoss,
    at_least_float32,
    positive_counts,
)
from ssfnas.ops.autocast import without_autocast


class LDAMLoss(ClassificationLoss):
    """Cross-entropy of scaled cosines, the true class' lowered by a margin ~ n_c^(-1/4).

    l_c = -log(e^(z_c - s m_c) / (e^(z_c - s m_c) + sum_{j != c} e^(z_j))) of logits z = s cos: the
    scale belongs to the network, so that its logits mean what the loss takes them for.

    Args:
        class_counts: training images of each class, each above 0.
        max_margin: m of the smallest class, as a difference of cosines.
        scale: s, that of the :class:`CosineClassifier` that gives the logits.

    Raises:
        RequestError: a class has no images.

    Source: Cao et al., arXiv 1906.07413.
    """

    margins: Tensor

    def __init__(
        self, class_counts: Sequence[float], max_margin: float = 0.5, scale: float = 30.0
    ) -> None:
        super().__init__()
        margins = positive_counts(class_counts, "ldam") ** -0.25
        self.register_buffer("margins", max_margin * margins / margins.max(), persistent=False)
        self.scale = scale

    def per_class(self, logits: Tensor) -> Tensor:
        """Cost of each class [N, C]: with the margin taken from that class alone."""
        own = logits - self.scale * self.margins.to(logits.dtype)
        return F.softplus(_log_sum_of_others(logits) - own)


def _log_sum_of_others(z: Tensor) -> Tensor:
    """log sum_{j != c} e^(z_j) for every c [N, C], from running sums on both sides of c.

    The sum of all less e^(z_c) would cancel where class c is almost certain.
    """
    least = torch.full_like(z[:, :1], torch.finfo(z.dtype).min)
    before = torch.cat([least, torch.logcumsumexp(z, dim=1)[:, :-1]], dim=1)
    reverse = torch.logcumsumexp(z.flip(1), dim=1)[:, :-1]
    after = torch.cat([least, reverse], dim=1).flip(1)
    return torch.logaddexp(before, after)


class CosineClassifier(nn.Module):
    """Scaled cosines between features and class vectors, the head that LDAM wants.

    Args:
        in_features: F.
        num_classes: C.
        seed: of the initial class vectors.
        scale: what cosines are multiplied by, above 0; not trained, and a part of the settings, not
            of the state. Without one, softmax of numbers from -1 to 1 is nearly uniform.
    """

    def __init__(
        self, in_features: int, num_classes: int, seed: int = 0, scale: float = 30.0
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_classes, in_features))
        self.seed, self.scale = seed, scale
        self.reset_parameters()

    def extra_repr(self) -> str:
        """Sizes and scale."""
        classes, features = self.weight.shape
        return f"in_features={features}, num_classes={classes}, scale={self.scale}"

    def reset_parameters(self) -> None:
        """Draw the class vectors, the same each time."""
        draws = torch.Generator().manual_seed(self.seed)
        with torch.no_grad():
            values = torch.randn(self.weight.shape, generator=draws)
            self.weight.copy_(F.normalize(values, dim=1))

    def forward(self, features: Tensor) -> Tensor:
        """Logits [N, C] from -scale to scale, of features [N, F]; of at least float32."""
        features = at_least_float32(features)
        with without_autocast(features):
            weight = F.normalize(at_least_float32(self.weight), dim=1)
            cosines = F.linear(F.normalize(features, dim=1), weight.to(features.dtype))
            return self.scale * cosines
