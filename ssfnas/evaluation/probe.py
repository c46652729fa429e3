"""A linear probe: what a frozen network's features are worth to a linear classifier."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_DECAY = 1e-4
"""Weight of half the squared norm of the weights, which makes the optimum unique."""


def fit_linear_probe(
    features: Tensor, labels: Tensor, num_classes: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Multinomial logistic regression on standardized features, by L-BFGS in float64.

    Args:
        features: [N, F].
        labels: int64 [N].
        num_classes: C.

    Returns:
        mean [F], standard deviation [F], weight [C, F], bias [C]; see :func:`apply_linear_probe`.
    """
    x = features.double()
    mean, std = x.mean(dim=0), x.std(dim=0, correction=0).clamp_min(1e-6)
    x = (x - mean) / std
    weight = torch.zeros(
        num_classes, x.shape[1], dtype=x.dtype, device=x.device, requires_grad=True
    )
    bias = torch.zeros(num_classes, dtype=x.dtype, device=x.device, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=200, history_size=20, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(x @ weight.T + bias, labels) + 0.5 * _DECAY * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return mean, std, weight.detach(), bias.detach()


def apply_linear_probe(probe: tuple[Tensor, Tensor, Tensor, Tensor], features: Tensor) -> Tensor:
    """Logits float64 [N, C] of features [N, F]."""
    mean, std, weight, bias = probe
    return ((features.double() - mean) / std) @ weight.T + bias
