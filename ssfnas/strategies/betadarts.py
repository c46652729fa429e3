"""Beta-DARTS: a penalty that decays the softmax weights themselves, the large ones most."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ssfnas.layers.cells import CELL_TYPES
from ssfnas.strategies.strategy import Moment, SearchStrategy


class BetaDarts(SearchStrategy):
    """DARTS with beta decay (arXiv 2203.01665): lambda times :func:`beta_decay`.

    lambda grows on a line from 0 to what would be ``beta_end`` after the last epoch, e / E of it in
    epoch e of E. The official code has 50 e / 100 whatever E is, which is the same in 100 epochs;
    with 50 it ends at half of that. It has no rule for two kinds of cells, of which ours takes all
    rows alike. Adam's decay of the alphas stays as it is, there too.
    """

    def begin_step(self, moment: Moment) -> None:
        """Set lambda."""
        self.set("beta", self.config.beta_end * moment.epoch / moment.epochs)

    def penalty(self) -> dict[str, Tensor]:
        """Beta decay of both cells; ``beta_decay`` is without lambda."""
        parameters = self.net.architecture()
        value = beta_decay([self.open_alphas(cell, parameters) for cell in CELL_TYPES])
        return {"loss": self.get("beta") * value, "beta_decay": value}


def beta_decay(alphas: Sequence[Tensor]) -> Tensor:
    """Mean over all rows of log sum_o exp(alpha_o).

    Its gradient is p / rows, p the softmax of a row: alphas are pushed down by what their weight
    is, which evens the weights of an edge out.

    Args:
        alphas: tables [edges, operations]; minus infinity where an operation is closed.

    Returns:
        A scalar.

    Source: Ye et al., arXiv 2203.01665.
    """
    return torch.cat([alpha.logsumexp(-1) for alpha in alphas]).mean()
