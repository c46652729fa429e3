"""GDAS: each edge runs one operation, which is drawn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from ssfnas.layers.cells import CELL_TYPES, OpenOperations
from ssfnas.spaces import Mix
from ssfnas.strategies.strategy import ALPHA, DECISION, WEIGHT, Moment, SearchStrategy, as_open


class Gdas(SearchStrategy):
    """Straight-through Gumbel-softmax: the drawn operation alone is run (arXiv 1910.04465).

    With Gumbel noise g, z = (log softmax(alpha) + g) / tau and q = softmax(z), an edge runs the
    operation k = argmax z, whose probability is softmax(alpha)_k at any tau. Its weight h_k is 1,
    with the gradient of q_k; that of all others is 0. So the gradient of a loss L in alpha_j is
    dL/dh_k q_k (delta_jk - q_j) / tau.

    Both losses of a step have draws of their own, one a cell type, which all views of a batch
    share. tau goes in a line from ``tau_start`` in the first epoch to ``tau_end`` in the last.
    Decided by are probabilities, of all operations.

    Weights of operations that were not drawn have no gradient, and are left as they are: neither
    decay nor momentum moves them.
    """

    weights_first = True
    moves_unused = False
    drawn_in: ClassVar[tuple[str, ...]] = (WEIGHT, ALPHA)

    def begin_step(self, moment: Moment) -> None:
        """Set tau, and draw the operations of both losses."""
        done = moment.epoch / max(1, moment.epochs - 1)
        start, end = self.config.tau_start, self.config.tau_end
        self.set("tau", start + (end - start) * min(1.0, done))
        parameters = self.net.architecture()
        # Weights are updated first, so both losses see these alphas. On a GPU the one question of
        # a step to the device, which has done the step before by then.
        tables = torch.stack([parameters[f"alphas_{cell}"].detach() for cell in CELL_TYPES])
        alphas = dict(zip(CELL_TYPES, tables.cpu().double(), strict=True))
        self._drawn: dict[tuple[str, str], OpenOperations] = {}
        for phase in self.drawn_in:
            draws = self.draws(moment, phase)
            for cell, alpha in alphas.items():
                noise = gumbel(alpha, draws)
                left = self.open[cell]
                chosen = (alpha + noise).masked_fill(~left, -torch.inf).argmax(1, keepdim=True)
                only = torch.zeros_like(left).scatter_(1, chosen, True) & left
                self._drawn[phase, cell] = as_open(only)
                self.set(f"noise_{phase}_{cell}", noise)
                self.set(f"drawn_{phase}_{cell}", only)

    def weights(self, alpha: Tensor, cell: str) -> Tensor:
        """One where an operation was drawn, else zero; what is decided by are probabilities."""
        if self.phase == DECISION:
            return super().weights(alpha, cell)
        noise, drawn = (self.get(f"{name}_{self.phase}_{cell}") for name in ("noise", "drawn"))
        return straight_through(alpha, noise, drawn, self.get("tau"))

    def mix(self, cell: str, parameters: Mapping[str, Tensor]) -> Mix:
        """With the drawn operations alone, but for what is decided."""
        mix = super().mix(cell, parameters)
        return mix if self.phase == DECISION else mix._replace(open=self._drawn[self.phase, cell])


def gumbel(like: Tensor, draws: torch.Generator) -> Tensor:
    """Draws of Gumbel(0, 1), -log(-log u) of uniform u, in the shape and dtype of ``like``."""
    return -torch.empty_like(like).exponential_(generator=draws).log()


def straight_through(alpha: Tensor, noise: Tensor, drawn: Tensor, tau: Tensor | float) -> Tensor:
    """``drawn`` with the gradient of q = softmax((log softmax(alpha) + noise) / tau) where it is 1.

    Args:
        alpha, noise: [E, O]; minus infinity in ``alpha`` where an operation cannot be drawn.
        drawn: zeros, and on each edge one or no 1, [E, O].
        tau: above 0.

    Returns:
        [E, O], exactly ``drawn``, fp32 (fp64 for fp64 ``alpha``).

    Source: Dong and Yang, arXiv 1910.04465, section 3.2.
    """
    alpha = alpha if alpha.dtype == torch.float64 else alpha.float()
    # log softmax(alpha) is alpha but for a constant of each edge, on which q does not depend.
    q = ((alpha + noise) / tau).softmax(1)
    return drawn * (1 + (q - q.detach()))
