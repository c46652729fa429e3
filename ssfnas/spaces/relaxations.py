"""How architecture parameters (alpha) become the weights of the operations on each edge."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from ssfnas.registry import Registry


class Relaxation(Protocol):
    """Three pure functions; tables are [edges, operations].

    Attributes:
        shares: whether the operations of an edge share a weight, so that it says nothing of the
            edge.
    """

    shares: bool = False

    def init(self, edges: int, operations: int, generator: torch.Generator | None) -> Tensor:
        """The first alpha of a cell type, fp32 [edges, operations]."""

    def weights(self, alpha: Tensor) -> Tensor:
        """The weight of each operation, [edges, operations], fp32 (fp64 for fp64 alpha)."""

    def entropy(self, weights: Tensor) -> Tensor:
        """How undecided the weights are, in nats, a scalar: 0 where every choice is made."""


RELAXATIONS: Registry[type[Relaxation]] = Registry("relaxation")


def _wide(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()


@RELAXATIONS.register("softmax")
class Softmax:
    """Operations of an edge share a weight of 1 (DARTS, arXiv 1806.09055)."""

    shares = True

    def init(self, edges: int, operations: int, generator: torch.Generator | None) -> Tensor:
        """1e-3 times standard normal draws."""
        device = None if generator is None else generator.device
        draws = torch.randn(edges, operations, generator=generator, device=device)
        return 1e-3 * draws

    def weights(self, alpha: Tensor) -> Tensor:
        """Softmax over the operations of each edge."""
        return _wide(alpha).softmax(dim=-1)

    def entropy(self, weights: Tensor) -> Tensor:
        """Entropy of each edge's distribution, averaged over edges."""
        return torch.special.entr(weights).sum(dim=-1).mean()


@RELAXATIONS.register("sigmoid")
class Sigmoid:
    """Every operation has a weight of its own (FairDARTS, arXiv 1911.12126)."""

    shares = False

    def init(self, edges: int, operations: int, generator: torch.Generator | None) -> Tensor:
        """Zeros: every weight starts at one half."""
        return torch.zeros(edges, operations)

    def weights(self, alpha: Tensor) -> Tensor:
        """Sigmoid of each entry."""
        return _wide(alpha).sigmoid()

    def entropy(self, weights: Tensor) -> Tensor:
        """Entropy of each entry as a choice between keeping and leaving, averaged over entries."""
        return (torch.special.entr(weights) + torch.special.entr(1 - weights)).mean()
