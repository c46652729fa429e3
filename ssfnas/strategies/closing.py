"""Operations whose weights have closed leave the search, which becomes cheaper as it decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from ssfnas.config import SearchConfig
from ssfnas.layers.cells import edges_of_nodes, nodes_of
from ssfnas.runtime.resumable import Resumable


class Closing(Resumable):
    """Closes operations whose weight stayed below a bound for some epochs; none comes back.

    An edge keeps its strongest operation where its operations share a weight of 1: there the bound
    says nothing of the edge. Otherwise edges may close, and each node keeps the strongest one of
    each of its two best edges, so that rules of two edges a node find what is open. ``none`` is not
    counted among them: it is never derived.

    Args:
        config: says the bound, and for how long.
        operations: names of the tables' columns.
        shared: whether the operations of an edge share a weight.
    """

    kept: ClassVar[tuple[str, ...]] = ("below",)

    def __init__(self, config: SearchConfig, operations: Sequence[str], *, shared: bool) -> None:
        self.bound, self.patience = config.close_below, config.close_patience
        self.after, self.shared = config.close_after, shared
        self.below: dict[str, Tensor] = {}
        self._is_none = torch.tensor([name == "none" for name in operations])

    def update(
        self, epochs: int, weights: Mapping[str, Tensor], left: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """The operations that are left after an epoch, bool [E, O] by cell type.

        Args:
            epochs: in which alphas were trained so far.
            weights: of the operations, [E, O], as they are decided by now.
            left: the operations that were left until now.
        """
        found = {}
        for cell, table in weights.items():
            low = (table < self.bound).long()
            before = self.below.get(cell, torch.zeros_like(low))
            self.below[cell] = (before + 1) * low
            closing = (self.below[cell] >= self.patience) & (epochs > self.after)
            found[cell] = left[cell] & ~(closing & ~self._strongest(table, left[cell]))
        return found

    def _strongest(self, table: Tensor, left: Tensor) -> Tensor:
        """Which operations stay in any case: of each edge, or of the two best, the strongest."""
        strength = table.masked_fill(~left | self._is_none, -torch.inf)
        best, places = strength.max(1)
        stays = torch.zeros_like(left).scatter_(1, places[:, None], True) & left
        if self.shared:
            return stays
        sizes = edges_of_nodes(nodes_of(len(table)))
        kept = [
            torch.zeros_like(of_node, dtype=torch.bool).scatter_(0, of_node.topk(2).indices, True)
            for of_node in best.split(sizes)
        ]
        return stays & torch.cat(kept)[:, None]
