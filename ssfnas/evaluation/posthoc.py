"""Corrections for class imbalance after training: they cost one pass and no training."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

TAUS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)


def adjust_logits(logits: Tensor, prior: Sequence[float] | Tensor, tau: float) -> Tensor:
    """Post-hoc logit adjustment: z - tau log p.

    Args:
        logits: [N, C].
        prior: C numbers above 0 in proportion to p: the sizes of the classes for a network trained
            with plain cross-entropy, else what :func:`~ssfnas.objectives.class_prior.prior_left`
            says its training has left of them.
        tau: strength; 1 is the Bayes-optimal correction for balanced error.

    Source: Menon et al. 2021, arXiv 2007.07314.
    """
    masses = torch.as_tensor(prior, dtype=logits.dtype, device=logits.device)
    return logits - tau * (masses / masses.sum()).log()


def normalize_classifier(features: Tensor, classifier: nn.Linear, tau: float) -> Tensor:
    """Logits with each class' weight vector divided by its norm to the power ``tau``.

    Args:
        features: [N, F] before the classifier.
        classifier: its weight is [C, F]; its bias is left out, as in the source.
        tau: 0 keeps the norms, 1 makes them all alike.

    Returns:
        logits [N, C].

    Source: tau-normalization of Kang et al. 2020, arXiv 1910.09217.
    """
    weight = classifier.weight.to(features.dtype)
    norms = weight.norm(dim=1, keepdim=True).clamp_min(1e-12)
    return features @ (weight / norms**tau).T
