"""What a search cell is made of, sorted by the state that each candidate starts from.

A source is a state with the edges that leave it. All separable units on those edges read the same
tensor, and pools have no weights, so one result serves every edge. Candidates that are none of
these stay modules of their own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor, nn

from ssfnas.layers.cells import MixedEdge, SearchCell, cell_edges
from ssfnas.layers.normalization import BatchNorm2d
from ssfnas.layers.operations import (
    AvgPool,
    DilConv,
    FactorizedReduce,
    MaxPool,
    SepConv,
    Zero,
)

POOLS = ("max", "avg")


@dataclass(frozen=True)
class Unit:
    """ReLU, depthwise convolution, 1x1 convolution and the BatchNorm behind them."""

    depthwise: nn.Conv2d
    pointwise: nn.Conv2d
    norm: BatchNorm2d

    @property
    def dilation(self) -> int:
        """Of the depthwise convolution."""
        return int(self.depthwise.dilation[0])


class Filters(NamedTuple):
    """Weights of a source's units and reduces.

    Attributes:
        depthwise, pointwise: of its first units, [C, 1, k, k] and [C, C, 1, 1].
        depthwise2, pointwise2: of its second ones.
        even, odd: of its reduces, [E, C, 1, 1] and [C - E, C, 1, 1].
    """

    depthwise: list[Tensor]
    pointwise: list[Tensor]
    depthwise2: list[Tensor]
    pointwise2: list[Tensor]
    even: list[Tensor]
    odd: list[Tensor]


@dataclass
class Source:
    """A state and all that is computed from it alone.

    Attributes:
        stride: of the candidates that leave it.
        paired: first blocks of separable convolutions.
        single: units that read the state and are a candidate each.
        second: units that each read the normalized result of the first block in their place.
        reduces: factorized reduces, the skip connections of stride 2.
        pools: ``"max"`` and ``"avg"`` -> the BatchNorm of that pool on every edge that has it.
        modules: candidates of other kinds, by their place.
    """

    stride: int
    paired: list[Unit] = field(default_factory=list)
    single: list[Unit] = field(default_factory=list)
    second: list[Unit] = field(default_factory=list)
    reduces: list[FactorizedReduce] = field(default_factory=list)
    pools: dict[str, list[BatchNorm2d]] = field(default_factory=dict)
    modules: dict[tuple[int, int], nn.Module] = field(default_factory=dict)

    @property
    def first(self) -> list[Unit]:
        """All units that read the state."""
        return [*self.paired, *self.single]

    @property
    def filters(self) -> Filters:
        """Of all its units and reduces."""
        return Filters(
            [unit.depthwise.weight for unit in self.first],
            [unit.pointwise.weight for unit in self.first],
            [unit.depthwise.weight for unit in self.second],
            [unit.pointwise.weight for unit in self.second],
            [reduce.even.weight for reduce in self.reduces],
            [reduce.odd.weight for reduce in self.reduces],
        )

    @property
    def parameters(self) -> tuple[list[Tensor], ...]:
        """The filters, kind by kind, and behind them those of the candidates that stay modules."""
        of_modules: list[Tensor] = []
        for module in self.modules.values():
            of_modules += module.parameters()
        return *self.filters, of_modules


@dataclass(frozen=True)
class Term:
    """One summand of a node.

    Attributes:
        place: (edge, operation): its weight's row and column.
        source: the state it starts from.
        kind: ``"single"``, ``"second"``, ``"reduce"``, ``"max"``, ``"avg"``, ``"skip"`` or
            ``"module"``.
        position: among the source's units of that kind; 0 for other kinds.
    """

    place: tuple[int, int]
    source: int
    kind: str
    position: int = 0


class CellLayout:
    """Sources and nodes of one :class:`~ssfnas.layers.cells.SearchCell`.

    Attributes:
        sources: states 0 to nodes; the last node has no edges.
        terms: the summands of every node, in the order of edges and operations.
        norm_rows: for each source in turn, the BatchNorms of its first units, of its second ones,
            of its reduces, and, where it has pools, of its maxima and averages: those of a row have
            the same statistics.
        norms: all of them.
    """

    def __init__(self, cell: SearchCell) -> None:
        self.nodes = cell.nodes
        self.sources = [
            Source(stride=2 if cell.kind == "reduce" and state < 2 else 1)
            for state in range(cell.nodes + 1)
        ]
        self.terms: list[list[Term]] = [[] for _ in range(cell.nodes)]
        for number, (start, to) in enumerate(cell_edges(cell.nodes)):
            edge = cell.edges[number]
            assert isinstance(edge, MixedEdge)
            for column, module in enumerate(edge.operations):
                term = _enter(module, (number, column), start, self.sources[start])
                if term is not None:
                    self.terms[to - 2].append(term)
        self.norm_rows: list[list[BatchNorm2d]] = []
        for source in self.sources:
            self.norm_rows += [[unit.norm] for unit in (*source.first, *source.second)]
            self.norm_rows += [[reduce.norm] for reduce in source.reduces]
            if source.pools:
                self.norm_rows += [source.pools.get(kind, []) for kind in POOLS]
        self.norms = [norm for row in self.norm_rows for norm in row]

    def parameters(self) -> list[Tensor]:
        """Those of each source, one kind after the other."""
        return [p for source in self.sources for kind in source.parameters for p in kind]


def _enter(module: nn.Module, place: tuple[int, int], start: int, source: Source) -> Term | None:
    """Add a candidate to its source; its term, or None for one that adds nothing."""
    if type(module) is Zero:
        return None
    if type(module) is nn.Identity:
        return Term(place, start, "skip")
    if type(module) is DilConv:
        source.single.append(_unit(module, 0))
        return Term(place, start, "single", len(source.single) - 1)
    if type(module) is SepConv:
        source.paired.append(_unit(module, 0))
        source.second.append(_unit(module, 4))
        return Term(place, start, "second", len(source.second) - 1)
    if type(module) is FactorizedReduce:
        source.reduces.append(module)
        return Term(place, start, "reduce", len(source.reduces) - 1)
    if type(module) is nn.Sequential and len(module) == 2 and isinstance(module[1], BatchNorm2d):
        kind = {MaxPool: "max", AvgPool: "avg"}.get(type(module[0]))  # type: ignore[call-overload]
        if kind is not None:
            source.pools.setdefault(kind, []).append(module[1])
            return Term(place, start, kind)
    source.modules[place] = module
    return Term(place, start, "module")


def _unit(candidate: nn.Sequential, first: int) -> Unit:
    depthwise, pointwise, norm = (candidate[first + offset] for offset in (1, 2, 3))
    assert isinstance(depthwise, nn.Conv2d)
    assert isinstance(pointwise, nn.Conv2d)
    assert isinstance(norm, BatchNorm2d)
    return Unit(depthwise, pointwise, norm)
