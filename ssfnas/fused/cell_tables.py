"""Where a cell's coefficients stand in the tables of :mod:`ssfnas.ops.norm_coefficients`.

Whatever a kernel reads together stands together, so that it is a slice: the statistics of a
source's units, and for the backward pass p, q and r of all terms that a source gives to the nodes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ssfnas.fused.cell_layout import POOLS, CellLayout
from ssfnas.ops.norm_coefficients import RSTD

Place = tuple[torch.device, torch.dtype]


class SourceRows(NamedTuple):
    """Where the statistics of a source's units, reduces and pools begin."""

    first: int
    second: int
    reduces: int
    pools: int


class Block(NamedTuple):
    """Rows of the gradients' table: p, q and r of as many terms, or units.

    Pools have one row of q and one of r, to which all their terms add; the row of q follows those
    of p. Reduces have p and q of each side by side. Behind the rows of p of skip connections is one
    of ones.
    """

    p: slice
    q: slice
    r: slice


class Indices(NamedTuple):
    """Rows as tensors, on one device.

    Attributes:
        statistics: for each node, the rows of its terms' statistics, [K].
        weights: for each node, the places of its terms in the flattened table of weights, [K].
        gradients: for each node, the rows of its terms' p, q and r, [3, K].
        paired: for each source, the rows of p, q and r of first blocks that have a second, [3, G].
    """

    statistics: list[Tensor]
    weights: list[Tensor]
    gradients: list[Tensor]
    paired: list[Tensor]


class CellTables:
    """The rows of both tables of a cell, and the tables themselves.

    Args:
        layout: of the cell.
        operations: candidates an edge.

    Attributes:
        uses: for each source and kind of term, its terms as (node, number in the node).
        sources: for each source, where its statistics are; row 0 is that of what is not normalized.
        blocks: for each source, where its gradients' coefficients are, by kind of term, and of all
            its first units as ``"first"``; row 0 holds zeros.
    """

    def __init__(self, layout: CellLayout, operations: int) -> None:
        self.layout, self._operations = layout, operations
        self.uses: list[dict[str, list[tuple[int, int]]]] = [{} for _ in layout.sources]
        for node, terms in enumerate(layout.terms):
            for number, term in enumerate(terms):
                self.uses[term.source].setdefault(term.kind, []).append((node, number))
        self.sources: list[SourceRows] = []
        row = 1
        for source in layout.sources:
            second = row + len(source.first)
            reduces = second + len(source.second)
            pools = reduces + len(source.reduces)
            self.sources.append(SourceRows(row, second, reduces, pools))
            row = pools + (len(POOLS) if source.pools else 0)
        self._statistics = row
        self._ones: list[int] = []
        self._gradients = 1
        self.blocks = [self._make_blocks(state) for state in range(len(layout.sources))]
        self._indices: dict[torch.device, Indices] = {}
        self._templates: dict[tuple[Place, int], tuple[Tensor, Tensor]] = {}

    def _make_blocks(self, state: int) -> dict[str, Block]:
        source, blocks = self.layout.sources[state], {}
        counts = {kind: len(terms) for kind, terms in self.uses[state].items() if kind != "single"}
        if source.first:
            counts["first"] = len(source.first)
        for kind, count in counts.items():
            if kind == "reduce":
                pairs = self._take(2 * count)
                p, q = (slice(pairs.start + i, pairs.stop, 2) for i in range(2))
                blocks[kind] = Block(p, q, self._take(count))
                continue
            p = self._take(count)
            if kind == "skip":
                self._ones.append(self._take(1).start)
            each = 1 if kind in POOLS else count
            blocks[kind] = Block(p, self._take(each), self._take(each))
        return blocks

    def _take(self, count: int) -> slice:
        rows = slice(self._gradients, self._gradients + count)
        self._gradients = rows.stop
        return rows

    def statistics(self, like: Tensor, channels: int) -> Tensor:
        """A table [4, R, C] in dtype and device of ``like``; rows but the first are not set."""
        table = like.new_empty(4, self._statistics, channels)
        table[:, 0] = self._template(like, channels)[0]
        return table

    def gradients(self, like: Tensor, channels: int) -> Tensor:
        """A table [T, C] in dtype and device of ``like``: zeros, and ones where they belong."""
        return self._template(like, channels)[1].clone()

    def _template(self, like: Tensor, channels: int) -> tuple[Tensor, Tensor]:
        key = (like.device, like.dtype), channels
        if key not in self._templates:
            unchanged = like.new_zeros(4, 1)
            unchanged[RSTD] = 1
            gradients = like.new_zeros(self._gradients, channels)
            gradients[self._ones] = 1
            self._templates[key] = unchanged, gradients
        return self._templates[key]

    def indices(self, device: torch.device) -> Indices:
        """The rows on a device; made once."""
        if device not in self._indices:
            self._indices[device] = self._make_indices(device)
        return self._indices[device]

    def _make_indices(self, device: torch.device) -> Indices:
        def index(values: list[int] | list[tuple[int, int, int]]) -> Tensor:
            found = torch.tensor(values, dtype=torch.int64, device=device)
            return found if found.dim() == 1 else found.T.contiguous()

        terms = self.layout.terms
        statistics = [
            index([self._statistics_row(t.source, t.kind, t.position) for t in node])
            for node in terms
        ]
        weights = [
            index([t.place[0] * self._operations + t.place[1] for t in node]) for node in terms
        ]
        to: dict[tuple[int, int], tuple[int, int, int]] = {}
        for state, uses in enumerate(self.uses):
            for kind, places in uses.items():
                for number, place in enumerate(places):
                    to[place] = self._gradient_rows(state, kind, number)
        gradients = [
            index([to[node, number] for number in range(len(terms[node]))])
            for node in range(len(terms))
        ]
        paired = [
            index([_rows(self.blocks[state]["first"], g) for g in range(len(source.paired))])
            for state, source in enumerate(self.layout.sources)
        ]
        return Indices(statistics, weights, gradients, paired)

    def _statistics_row(self, state: int, kind: str, position: int) -> int:
        rows = self.sources[state]
        if kind == "single":
            return rows.first + len(self.layout.sources[state].paired) + position
        if kind == "second":
            return rows.second + position
        if kind == "reduce":
            return rows.reduces + position
        return rows.pools + POOLS.index(kind) if kind in POOLS else 0

    def _gradient_rows(self, state: int, kind: str, number: int) -> tuple[int, int, int]:
        if kind == "single":
            return _rows(
                self.blocks[state]["first"], len(self.layout.sources[state].paired) + number
            )
        block = self.blocks[state][kind]
        if kind in POOLS:
            return block.p.start + number, block.q.start, block.r.start
        return _rows(block, number)


def _rows(block: Block, number: int) -> tuple[int, int, int]:
    p, q, r = (part.start + number * (part.step or 1) for part in block)
    return p, q, r
