"""All candidates that leave one state of a search cell: their results, and their gradients.

Formulas: :mod:`ssfnas.ops.torch_candidates`, :mod:`ssfnas.ops.mixed_norm_sum` and
:mod:`ssfnas.ops.norm_coefficients`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ssfnas.fused.cell_layout import POOLS, Source, Term
from ssfnas.fused.cell_statistics import Call, Primitives, Statistics
from ssfnas.fused.cell_tables import Block, SourceRows
from ssfnas.ops.factorized_reduces import reduces_backward, reduces_forward
from ssfnas.ops.norm_coefficients import MEAN, RSTD, SHIFT

Module = tuple[int, int]


class Filters(NamedTuple):
    """A source's filters, in the order of :meth:`~ssfnas.fused.cell_layout.CellLayout.filters`.

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

    @staticmethod
    def counts(source: Source) -> tuple[int, ...]:
        """How many of each a source has."""
        units = (source.first, source.first, source.second, source.second)
        return tuple(len(each) for each in (*units, source.reduces, source.reduces))


class Results(NamedTuple):
    """What a source leaves for its nodes and for the backward pass.

    Attributes:
        x: the state [N, C, H, W].
        first, second, reduces: results of the units and reduces, not normalized.
        pools: by ``"max"`` and ``"avg"``.
    """

    x: Tensor
    first: list[Tensor]
    second: list[Tensor]
    reduces: list[Tensor]
    pools: dict[str, Tensor]

    def find(self, term: Term, modules: dict[Module, tuple[Tensor, Tensor]]) -> Tensor:
        """The summand that a term names."""
        if term.kind == "single":
            return self.first[len(self.second) + term.position]
        if term.kind == "second":
            return self.second[term.position]
        if term.kind == "reduce":
            return self.reduces[term.position]
        if term.kind == "skip":
            return self.x
        if term.kind == "module":
            return modules[term.place][1].detach()
        return self.pools[term.kind]


def run_modules(modules: dict[Module, nn.Module], x: Tensor) -> dict[Module, tuple[Tensor, Tensor]]:
    """Candidates that are modules, each with a graph of its own: place -> (its input, its output).

    They normalize themselves, and their graphs are differentiated when the cell's gradient is.
    """
    results = {}
    for place, module in modules.items():
        with torch.enable_grad():
            leaf = x.detach().requires_grad_(x.is_floating_point())
            results[place] = leaf, module(leaf).to(x.dtype)
    return results


def forward(
    primitives: Primitives,
    sums: Primitives,
    source: Source,
    rows: SourceRows,
    statistics: Statistics,
    x: Tensor,
    filters: Filters,
) -> Results:
    """Results of all units, reduces and pools; enters their statistics.

    Args:
        primitives: functions by name.
        sums: those of the normalized sum.
        source: what leaves the state.
        rows: where its statistics go.
        statistics: of the cell.
        x: the state [N, C, H, W].
        filters: weights of the units.
    """
    first: list[Tensor] = []
    second: list[Tensor] = []
    reduces: list[Tensor] = []
    pools: dict[str, Tensor] = {}
    if source.first:
        first, mean, var = primitives("separable_forward")(
            [x],
            filters.depthwise,
            filters.pointwise,
            stride=source.stride,
            dilations=[unit.dilation for unit in source.first],
        )
        statistics.enter(rows.first, mean, var)
    if source.second:
        second, mean, var = primitives("separable_forward")(
            first[: len(source.second)],
            filters.depthwise2,
            filters.pointwise2,
            stride=1,
            dilations=[unit.dilation for unit in source.second],
            **_normalization(statistics.table, source, rows),
        )
        statistics.enter(rows.second, mean, var)
    if source.reduces:
        reduces = reduces_forward(x, filters.even, filters.odd)
        mean, var = sums("norm_statistics")(reduces, [True] * len(reduces))
        statistics.enter(rows.reduces, mean, var)
    if source.pools:
        largest, average, mean, var = primitives("pools_forward")(x, source.stride)
        both = dict(zip(POOLS, (largest, average), strict=True))
        pools = {kind: both[kind] for kind in source.pools}
        statistics.enter(rows.pools, mean, var)
    return Results(x, first, second, reduces, pools)


def _normalization(table: Tensor, source: Source, rows: SourceRows) -> dict[str, Tensor]:
    """What the second units normalize their inputs by, [G, C]."""
    paired = slice(rows.first, rows.first + len(source.paired))
    return {"scale": table[RSTD, paired], "shift": table[SHIFT, paired]}


class Gradients(NamedTuple):
    """Of the state, of the units' filters, and of the modules' parameters."""

    x: Tensor | None
    filters: list[Tensor | None]
    parameters: list[Tensor | None]


@dataclass(frozen=True)
class Backward:
    """Gradients of everything that :func:`forward` and :func:`run_modules` made of a state.

    Attributes:
        call, primitives, source, rows, filters: as in the forward pass.
        sums: functions of the normalized sum by name.
        statistics: [4, R, C].
        coefficients: [T, C]; holds those of all terms of the source.
        blocks: where, by kind.
        paired: int64 [3, G], the rows of p, q and r of the first blocks that have a second.
        results: what the forward pass gave.
        modules: what the modules gave.
        grads: by kind of term, for each term the gradient of its node.
        count: values a channel, over all processes.
        needs_weights: whether gradients of filters and parameters are wanted.
    """

    call: Call
    primitives: Primitives
    sums: Primitives
    source: Source
    rows: SourceRows
    filters: Filters
    statistics: Tensor
    coefficients: Tensor
    blocks: dict[str, Block]
    paired: Tensor
    results: Results
    modules: dict[Module, tuple[Tensor, Tensor]]
    grads: dict[str, list[Tensor]]
    count: int | Tensor
    needs_weights: bool

    def run(self, into: Tensor | None) -> Gradients:
        """All of them; ``into`` is what the state's gradient is so far, and is overwritten."""
        total = self._skips(into)
        total, parameters = self._modules(total)
        total, of_reduces = self._reduces(total)
        total = self._pools(total)
        if not self.source.first:
            return Gradients(total, of_reduces, parameters)
        dus, filter_grads = self._second_units()
        dxs, _, d_depthwise, d_pointwise = self.primitives("separable_backward")(
            [self.results.x],
            self.results.first,
            [*dus, *self.grads.get("single", [])],
            *self._rows_of("first"),
            self.filters.depthwise,
            self.filters.pointwise,
            stride=self.source.stride,
            dilations=[unit.dilation for unit in self.source.first],
            needs_weights=self.needs_weights,
            into=total,
        )
        none = [None] * len(self.source.first)
        of_first = [*(d_depthwise or none), *(d_pointwise or none)]
        return Gradients(dxs[0], [*of_first, *filter_grads, *of_reduces], parameters)

    def _rows_of(self, kind: str) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """p, q and r of a kind; q and r are None where statistics are constants."""
        block, table = self.blocks[kind], self.coefficients
        if not self.call.batch_statistics:
            return table[block.p], None, None
        return table[block.p], table[block.q], table[block.r]

    def _skips(self, total: Tensor | None) -> Tensor | None:
        if "skip" not in self.grads:
            return total
        grads, p = self.grads["skip"], self.blocks["skip"].p
        if total is not None:  # which has the row of ones behind the others
            grads, p = [*grads, total], slice(p.start, p.stop + 1)
        table = self.coefficients
        out: Tensor = self.sums("norm_sum_forward")(grads, table[p], table[0])
        return out

    def _modules(self, total: Tensor | None) -> tuple[Tensor | None, list[Tensor | None]]:
        parameters: list[Tensor | None] = []
        for number, (leaf, y) in enumerate(self.modules.values()):
            module = list(self.source.modules.values())[number]
            own = [weight for weight in module.parameters() if weight.requires_grad]
            p = self.coefficients[self.blocks["module"].p.start + number]
            dy = self.grads["module"][number] * p.view(1, -1, 1, 1)
            wanted = [leaf, *own] if self.needs_weights else [leaf]
            found: tuple[Tensor | None, ...] = (None,) * len(wanted)
            if y.requires_grad:
                found = torch.autograd.grad(
                    y, wanted, dy.to(y.dtype), allow_unused=True, retain_graph=True
                )
            by_weight = dict(zip(map(id, own), found[1:], strict=False))
            parameters += [by_weight.get(id(weight)) for weight in module.parameters()]
            if found[0] is not None:
                dx = found[0].contiguous(memory_format=torch.channels_last)
                total = dx if total is None else total.add_(dx)
        return total, parameters

    def _reduces(self, total: Tensor | None) -> tuple[Tensor | None, list[Tensor | None]]:
        if not self.source.reduces:
            return total, []
        block, table = self.blocks["reduce"], self.coefficients
        grads = []
        for k, (grad, z) in enumerate(zip(self.grads["reduce"], self.results.reduces, strict=True)):
            row = block.p.start + 2 * k
            if self.call.batch_statistics:
                inputs, a, b = [grad, z], table[row : row + 2], table[block.r.start + k]
            else:
                inputs, a, b = [grad], table[row : row + 1], table[0]
            grads.append(self.sums("norm_sum_forward")(inputs, a, b))
        filters = self.filters
        total, of_even, of_odd = reduces_backward(
            self.results.x,
            grads,
            filters.even,
            filters.odd,
            needs_weights=self.needs_weights,
            into=total,
        )
        none = [None] * len(grads)
        return total, [*(of_even or none), *(of_odd or none)]

    def _pools(self, total: Tensor | None) -> Tensor | None:
        if not self.results.pools:
            return total
        of_pools = {kind: self._pool(kind) for kind in self.results.pools}
        out: Tensor = self.primitives("pools_backward")(
            self.results.x, *(of_pools.get(kind) for kind in POOLS), self.source.stride, total
        )
        return out

    def _pool(self, kind: str) -> Tensor:
        """sum over terms of p grad + q pooled + r."""
        block, table, grads = self.blocks[kind], self.coefficients, self.grads[kind]
        a, b = table[block.p], table[0]
        if self.call.batch_statistics:
            grads = [*grads, self.results.pools[kind]]
            a, b = table[block.p.start : block.q.stop], table[block.r.start]
        out: Tensor = self.sums("norm_sum_forward")(grads, a, b)
        return out

    def _second_units(self) -> tuple[list[Tensor], list[Tensor | None]]:
        """Gradients of the first blocks' normalized results, and of the second units' filters.

        Enters their coefficients.
        """
        source, results, filters = self.source, self.results, self.filters
        if not source.second:
            return [], []
        dus, (s0, s1), d_depthwise, d_pointwise = self.primitives("separable_backward")(
            results.first[: len(source.second)],
            results.second,
            self.grads["second"],
            *self._rows_of("second"),
            filters.depthwise2,
            filters.pointwise2,
            stride=1,
            dilations=[unit.dilation for unit in source.second],
            **_normalization(self.statistics, source, self.rows),
            needs_weights=self.needs_weights,
        )
        start, stop = self.rows.first, self.rows.first + len(source.paired)
        mean, rstd = self.statistics[MEAN, start:stop], self.statistics[RSTD, start:stop]
        enter_gradients(
            self.call, self.primitives, self.coefficients, self.paired, rstd, mean, rstd, s0, s1,
            self.count,
        )  # fmt: skip
        none = [None] * len(source.second)
        return dus, [*(d_depthwise or none), *(d_pointwise or none)]


def enter_gradients(
    call: Call,
    primitives: Primitives,
    table: Tensor,
    rows: Tensor,
    a: Tensor,
    mean: Tensor,
    rstd: Tensor,
    s0: Tensor,
    s1: Tensor,
    count: int | Tensor,
) -> None:
    """:func:`~ssfnas.ops.norm_coefficients.gradient_coefficients` of a batch over all processes.

    Where statistics are constants there is nothing but p.
    """
    if not call.batch_statistics:
        table.index_copy_(0, rows[0], a)
        return
    if call.group is not None:
        sums = torch.cat([s0.reshape(-1, s0.shape[-1]), s1])
        dist.all_reduce(sums, group=call.group)
        s0, s1 = sums[: -len(s1)].view_as(s0), sums[-len(s1) :]
    primitives("gradient_coefficients")(table, rows, a, mean, rstd, s0, s1, count)
