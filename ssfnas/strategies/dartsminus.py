"""DARTS-: a second skip connection that fades takes away what made the first one win."""

from __future__ import annotations

import torch
from torch import Tensor

from ssfnas.config import SearchConfig
from ssfnas.errors import RequestError
from ssfnas.strategies.strategy import DECISION, Moment, SearchStrategy, Space

SKIP = "skip_connect"


class DartsMinus(SearchStrategy):
    """DARTS with an auxiliary skip connection on every edge (DARTS-, arXiv 2009.01027).

    While training, an edge computes sum_o p_o o(x) + lambda skip(x), p the softmax of the alphas;
    lambda falls on a line from ``auxiliary_skip`` to what would be 0 after the last epoch. What is
    decided is p alone, without the auxiliary one.

    lambda is added to the weight of the candidate, so that the auxiliary costs nothing. Where that
    is the input itself, this is the paper's network to rounding; at stride 2 both share the
    candidate's factorized reduce, where the official code has another one of its own. An edge whose
    skip connection is closed for good loses the auxiliary one too.

    Raises:
        RequestError: there is no skip connection among the operations.
    """

    def __init__(self, config: SearchConfig, space: Space) -> None:
        super().__init__(config, space)
        if SKIP not in space.operations:
            raise RequestError(
                f"--strategy {config.strategy} adds to {SKIP}, which is not among --operations "
                f"{','.join(space.operations)}: add it, or use another strategy"
            )
        self.set("skip", torch.tensor([float(name == SKIP) for name in space.operations]))

    def begin_step(self, moment: Moment) -> None:
        """Set lambda."""
        left = (moment.epochs - moment.epoch) / moment.epochs
        self.set("auxiliary_skip", self.config.auxiliary_skip * left)

    def weights(self, alpha: Tensor, cell: str) -> Tensor:
        """Softmax over the operations of each edge, and lambda on skip connections in training."""
        weights = super().weights(alpha, cell)
        if self.phase == DECISION:
            return weights
        return weights + self.get("auxiliary_skip") * self.get("skip")
