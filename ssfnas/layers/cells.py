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
from ssfnas.layers.partial_channels import bypass, shuffle_channels

CELL_TYPES = ("normal", "reduce")

OpenOperations = tuple[tuple[bool, ...], ...]
"""[E][O], known to the host: which operations of a cell are there at all."""


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

    With a ``share`` K above 1 they see the first C / K channels alone, and the others pass by
    (PC-DARTS, arXiv 1907.05737, section 3.2; with b its edge normalization, section 3.3):

        shuffle_K(cat(sum over o of w_o * o(x[:, :C / K]), b * bypass(x[:, C / K:])))

    where w has the edge's factor in it already.

    Args:
        names: the operations.
        channels: of input and output.
        stride: 1 or 2.
        share: K, which divides the channels.
    """

    def __init__(self, names: tuple[str, ...], channels: int, stride: int, share: int = 1) -> None:
        super().__init__()
        self.stride, self.share = stride, share
        self.operations = nn.ModuleList(
            make_operation(name, channels // share, stride, searching=True) for name in names
        )

    def forward(
        self,
        x: Tensor,
        weights: Tensor,
        edge: Tensor | None = None,
        open: Sequence[bool] | None = None,
    ) -> Tensor:
        """[N, C, H, W] and weights [O] -> [N, C, ceil(H / stride), ceil(W / stride)].

        Args:
            x: the state.
            weights: of the operations.
            edge: b, a scalar; None: 1. Without partial channels nothing is multiplied by it.
            open: the operations that are computed; without partial channels at least one. None:
                all.
        """
        pairs = zip(weights.unbind(), self.operations, strict=True)
        wanted = [pair for place, pair in enumerate(pairs) if open is None or open[place]]
        if self.share == 1:
            return total([weight * operation(x) for weight, operation in wanted])
        first = x.shape[1] // self.share
        head = x[:, :first]
        rest = bypass(x[:, first:], self.stride)
        nothing = rest.new_zeros(len(rest), first, *rest.shape[2:])
        mixed = total([nothing, *(weight * operation(head) for weight, operation in wanted)])
        rest = rest if edge is None else edge * rest
        return shuffle_channels(torch.cat([mixed, rest], dim=1), self.share)


class SearchCell(nn.Module):
    """A cell with every operation on every edge; its output is all nodes, concatenated.

    Args:
        plan: its place in the network.
        channels: of its two inputs.
        nodes: intermediate nodes.
        names: candidate operations.
        share: K, where they see one K-th of the channels (:class:`MixedEdge`).
    """

    def __init__(
        self,
        plan: CellPlan,
        channels: tuple[int, int],
        nodes: int,
        names: tuple[str, ...],
        share: int = 1,
    ) -> None:
        super().__init__()
        self.kind = plan.kind
        self.nodes, self.share = nodes, share
        self.preprocess0, self.preprocess1 = preprocessing(plan, channels, affine=False)
        self.edges = nn.ModuleList(
            MixedEdge(names, plan.channels, 2 if plan.reduction and start < 2 else 1, share)
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
        """Both inputs [N, c, h, w] and weights [E, O] -> [N, nodes * channels, h', w'].

        Args:
            s0, s1: the inputs.
            weights: of each operation on each edge.
            edges: of what passes by on each edge, [E]; None: ones.
            open: [E][O], the operations that are computed, of each node at least one; None: all.
        """
        states = [self.preprocess0(s0), self.preprocess1(s1)]
        factors = [None] * len(self.edges) if edges is None else edges.unbind()
        chosen = [None] * len(self.edges) if open is None else open
        given = zip(self.edges, weights, factors, chosen, strict=True)
        for _ in range(self.nodes):
            # Takes the next edge for each state that there is: the order of cell_edges.
            arriving = zip(states, given, strict=False)
            parts = [
                edge(state, w, b, which)
                for state, (edge, w, b, which) in arriving
                if self.share > 1 or which is None or any(which)
            ]
            states.append(total(parts))
        return torch.cat(states[2:], dim=1)


def total(terms: Sequence[Tensor]) -> Tensor:
    """Sum of at least one tensor, from the first to the last."""
    return functools.reduce(torch.add, terms)
