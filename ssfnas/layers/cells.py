"""The graph of a cell, and how cells follow each other: shared by supernets and derived networks.

States of a cell are numbered 0 and 1 (its inputs: the outputs of the cell before the previous one
and of the previous one), then 2, 3, ... (its intermediate nodes).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ssfnas.errors import RequestError
from ssfnas.layers.operations import FactorizedReduce, ReLUConvBN, make_operation

CELL_TYPES = ("normal", "reduce")


def cell_edges(nodes: int) -> list[tuple[int, int]]:
    """(from, to) of every edge in DARTS' order: node by node, each from state 0 on."""
    return [(start, to) for to in range(2, nodes + 2) for start in range(to)]


def edge_count(nodes: int) -> int:
    """The number of edges of a cell: 2 + 3 + ... + (nodes + 1)."""
    return nodes * (nodes + 3) // 2


def edges_of_nodes(nodes: int) -> list[int]:
    """How many edges enter each node; they stand together in the order of :func:`cell_edges`."""
    return list(range(2, nodes + 2))


def nodes_of(edges: int) -> int:
    """The number of intermediate nodes of a cell with so many edges.

    Raises:
        RequestError: no cell has so many.
    """
    nodes = (math.isqrt(9 + 8 * edges) - 3) // 2
    if edge_count(nodes) != edges or nodes == 0:
        raise RequestError(
            f"no cell has {edges} edges: they are 2, 5, 9, 14, ... for 1, 2, ... nodes"
        )
    return nodes


@dataclass(frozen=True)
class CellPlan:
    """The place of one cell in a network.

    Attributes:
        kind: ``"normal"`` or ``"reduce"``.
        channels: of each of its states.
        after_reduction: the previous cell halved the resolution.
    """

    kind: str
    channels: int
    after_reduction: bool

    @property
    def reduction(self) -> bool:
        """Whether this cell halves the resolution."""
        return self.kind == "reduce"


def plan_cells(channels: int, layers: int) -> list[CellPlan]:
    """Cells of a network: at 1/3 and 2/3 of the depth, channels double and resolution halves."""
    plans: list[CellPlan] = []
    for layer in range(layers):
        reduction = layer in (layers // 3, 2 * layers // 3)
        channels = 2 * channels if reduction else channels
        after_reduction = bool(plans) and plans[-1].reduction
        plans.append(CellPlan("reduce" if reduction else "normal", channels, after_reduction))
    return plans


def preprocessing(plan: CellPlan, channels: tuple[int, int], *, affine: bool) -> list[nn.Module]:
    """What brings both inputs of a cell, of so many channels, to its own number and resolution."""
    first = FactorizedReduce if plan.after_reduction else ReLUConvBN
    return [
        first(channels[0], plan.channels, affine),
        ReLUConvBN(channels[1], plan.channels, affine),
    ]


class MixedEdge(nn.Module):
    """All candidate operations on one edge: sum over o of w_o * o(x).

    Args:
        names: the operations.
        channels: of input and output.
        stride: 1 or 2.
    """

    def __init__(self, names: tuple[str, ...], channels: int, stride: int) -> None:
        super().__init__()
        self.operations = nn.ModuleList(
            make_operation(name, channels, stride, searching=True) for name in names
        )

    def forward(self, x: Tensor, weights: Tensor, open: Sequence[bool] | None = None) -> Tensor:
        """[N, C, H, W] and weights [O] -> [N, C, ceil(H / stride), ceil(W / stride)].

        Where ``open`` is given, the sum of those operations alone, of which there is one.
        """
        pairs = zip(weights.unbind(), self.operations, strict=True)
        wanted = [pair for place, pair in enumerate(pairs) if open is None or open[place]]
        return total([weight * operation(x) for weight, operation in wanted])


class SearchCell(nn.Module):
    """A cell with every operation on every edge; its output is all nodes, concatenated.

    Args:
        plan: its place in the network.
        channels: of its two inputs.
        nodes: intermediate nodes.
        names: candidate operations.
    """

    def __init__(
        self, plan: CellPlan, channels: tuple[int, int], nodes: int, names: tuple[str, ...]
    ) -> None:
        super().__init__()
        self.kind = plan.kind
        self.nodes = nodes
        self.preprocess0, self.preprocess1 = preprocessing(plan, channels, affine=False)
        self.edges = nn.ModuleList(
            MixedEdge(names, plan.channels, 2 if plan.reduction and start < 2 else 1)
            for start, _ in cell_edges(nodes)
        )

    def forward(
        self,
        s0: Tensor,
        s1: Tensor,
        weights: Tensor,
        edges: Tensor | None = None,
        open: Sequence[Sequence[bool]] | None = None,
    ) -> Tensor:
        """Both inputs -> [N, nodes * channels, h', w'].

        Args:
            s0, s1: [N, c, h, w].
            weights: of the operations, [E, O].
            edges: factors of what passes an edge by.
            open: [E][O], the operations that are computed, of each node at least one; None: all.
        """
        states = [self.preprocess0(s0), self.preprocess1(s1)]
        wanted = [None] * len(self.edges) if open is None else open
        mixed = zip(self.edges, weights, wanted, strict=True)
        for _ in range(self.nodes):
            # Takes the next edge for each state that there is: the order of cell_edges.
            arriving = zip(states, mixed, strict=False)
            states.append(
                total(
                    [
                        edge(state, weight, which)
                        for state, (edge, weight, which) in arriving
                        if which is None or any(which)
                    ]
                )
            )
        return torch.cat(states[2:], dim=1)


def total(terms: Sequence[Tensor]) -> Tensor:
    """Sum of at least one tensor, from the first to the last."""
    return functools.reduce(torch.add, terms)
