"""SDARTS: weights are trained with noise on the table, so that alphas stay where it is flat."""

from __future__ import annotations

import torch
from torch import Tensor

from ssfnas.layers.cells import CELL_TYPES
from ssfnas.strategies.strategy import WEIGHT, Moment, SearchStrategy


class SmoothDarts(SearchStrategy):
    """DARTS whose weight steps see a disturbed table (SDARTS-RS, arXiv 2002.05283).

    With p the softmax of the alphas, weights are trained with clamp(p + u, 0, 1), rows made to sum
    to 1, where u is uniform in -eps .. eps and drawn anew in each step; see :func:`disturbed`.
    eps grows on a line from ``noise_start`` to what would be ``noise_end`` after the last epoch.
    Alphas are trained, and genotypes read, without noise.
    """

    def begin_step(self, moment: Moment) -> None:
        """Draw the noise of this step."""
        start, end = self.config.noise_start, self.config.noise_end
        size = start + (end - start) * moment.epoch / moment.epochs
        self.set("noise", size)
        draws = self.draws(moment, "noise")
        for cell in CELL_TYPES:
            shape = self.space.edges, len(self.space.operations)
            uniform = torch.rand(shape, generator=draws, dtype=torch.float64)
            self.set(f"noise_{cell}", size * (2 * uniform - 1))

    def weights(self, alpha: Tensor, cell: str) -> Tensor:
        """Softmax over the operations of each edge, disturbed in the phase of the weights."""
        weights = super().weights(alpha, cell)
        if self.phase != WEIGHT:
            return weights
        return disturbed(weights, self.get(f"noise_{cell}"), alpha != -torch.inf)


def disturbed(weights: Tensor, noise: Tensor, left: Tensor | None = None) -> Tensor:
    """Weights with noise: clamped to 0 .. 1, then rows divided by their sums.

    Where nothing of a row is left above 0, its largest entry before clamping becomes 1.

    Args:
        weights, noise: [E, O].
        left: bool [E, O], operations that are open; the others have a weight of 0. None: all are.

    Returns:
        [E, O], rows sum to 1.

    Source: Chen & Hsieh, arXiv 2002.05283.
    """
    moved = weights + noise
    if left is not None:
        moved = moved.masked_fill(~left, -torch.inf)
    clamped = moved.clamp(0, 1)
    total = clamped.sum(-1, keepdim=True)
    largest = torch.zeros_like(clamped).scatter(-1, moved.argmax(-1, keepdim=True), 1.0)
    return torch.where(total > 0, clamped / total.masked_fill(total == 0, 1), largest)
