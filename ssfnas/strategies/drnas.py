"""DrNAS: operations' weights are drawn from Dirichlet distributions that are trained."""

from __future__ import annotations

import torch
from torch import Tensor

from ssfnas.layers.cells import CELL_TYPES
from ssfnas.strategies.dirichlet import dirichlet, divergence_from_even, gamma_noise
from ssfnas.strategies.strategy import ALPHA, DECISION, WEIGHT, Moment, SearchStrategy

_DRAWN = (ALPHA, WEIGHT)
# Smaller ones of an edge are alike, all mass on one operation, and numbers end.
SMALLEST = 1e-3


class DrNas(SearchStrategy):
    """Weights of an edge are Dir(c), c = elu(alpha) + 1 (DrNAS, arXiv 2006.10355).

    A draw holds for one phase of a step: the loss of the alphas, or that of the weights, of which
    both views of a batch see the same network. Drawn are the numbers that variates are made of, on
    the host; gradients pass through the variates.

    What is decided, and read by derivation, is the softmax of the alphas, as in the official code.
    The mean of the distribution, c / sum c, of which the paper speaks, has the same order within an
    edge, but not between edges.

    The penalty ``kl`` is ``dirichlet_weight`` times KL(Dir(c) || Dir(1)), summed over the edges of
    both cells; ``l2`` adds nothing, but leaves it to Adam's decay of the alphas, which pulls c to
    1. The official code takes one or the other: with ``kl``, set ``--alpha-weight-decay 0``.
    """

    def begin_step(self, moment: Moment) -> None:
        """Draw what this step's variates are made of."""
        shape = len(_DRAWN), len(CELL_TYPES), self.space.edges, len(self.space.operations)
        self.set("noise", gamma_noise(*shape, generator=self.draws(moment, "gamma")))

    def weights(self, alpha: Tensor, cell: str) -> Tensor:
        """A variate of each edge's distribution; to decide, the softmax."""
        if self.phase == DECISION:
            return super().weights(alpha, cell)
        noise = self.get("noise")[:, _DRAWN.index(self.phase), CELL_TYPES.index(cell)]
        return dirichlet(concentrations(alpha), noise, alpha != -torch.inf)

    def penalty(self) -> dict[str, Tensor]:
        """With ``kl``, the divergence; ``dirichlet_kl`` is without the factor."""
        if self.config.dirichlet_penalty == "l2":
            return {}
        parameters = self.net.architecture()
        alphas = [self.open_alphas(cell, parameters) for cell in CELL_TYPES]
        alpha = torch.cat(alphas)
        value = divergence_from_even(concentrations(alpha), alpha != -torch.inf).sum()
        return {"loss": self.config.dirichlet_weight * value, "dirichlet_kl": value}


def concentrations(alpha: Tensor) -> Tensor:
    """c = elu(alpha) + 1 of each alpha, at least 1e-3, written so that small ones are exact.

    Source: Chen et al., arXiv 2006.10355.
    """
    below = alpha.clamp(max=0).exp()
    return torch.where(alpha > 0, alpha + 1, below).clamp_min(SMALLEST)
