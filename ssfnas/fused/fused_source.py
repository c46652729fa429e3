"""All candidates that leave one state of a search cell: their results, and their gradients.

Formulas: :mod:`ssfnas.ops.torch_candidates` and :mod:`ssfnas.ops.norm_coefficients`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ssfnas.fused.cell_layout import POOLS, Filters, Source, Term
from ssfnas.fused.cell_statistics import Coefficients, Statistics
from ssfnas.fused.cell_tables import Block, SourceRows
from ssfnas.ops.factorized_reduces import reduces_backward, reduces_forward
from ssfnas.ops.norm_coefficients import MEAN, RSTD, SHIFT

Module = tuple[int, int]


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
    source: Source, rows: SourceRows, statistics: Statistics, x: Tensor, filters: Filters
) -> Results:
    """Results of all units, reduces and pools; enters their statistics.

    Args:
        source: what leaves the state.
        rows: where its statistics go.
        statistics: of the cell.
        x: the state [N, C, H, W].
        filters: weights of the units.
    """
    primitives = statistics.primitives
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
            **_of_second(source, rows, statistics.table),
        )
        statistics.enter(rows.second, mean, var)
    if source.reduces:
        reduces = reduces_forward(x, filters.even, filters.odd)
        mean, var = primitives("norm_statistics")(reduces, [True] * len(reduces))
        statistics.enter(rows.reduces, mean, var)
    if source.pools:
        largest, average, mean, var = primitives("pools_forward")(x, source.stride)
        both = dict(zip(POOLS, (largest, average), strict=True))
        pools = {kind: both[kind] for kind in source.pools}
        statistics.enter(rows.pools, mean, var)
    return Results(x, first, second, reduces, pools)


def _of_second(source: Source, rows: SourceRows, table: Tensor) -> dict[str, Any]:
    """How the second units are computed, and what they normalize their inputs by, [G, C]."""
    paired = slice(rows.first, rows.first + len(source.paired))
    return {
        "stride": 1,
        "dilations": [unit.dilation for unit in source.second],
        "scale": table[RSTD, paired],
        "shift": table[SHIFT, paired],
    }


@dataclass(frozen=True)
class Backward:
    """Gradients of everything that :func:`forward` and :func:`run_modules` made of a state.

    Attributes:
        source, rows, filters: as in the forward pass.
        statistics: [4, R, C].
        coefficients: of the cell; holds those of all terms of the source.
        blocks: where, by kind.
        paired: int64 [3, G], the rows of p, q and r of the first blocks that have a second.
        results: what the forward pass gave.
        modules: what the modules gave.
        grads: by kind of term, for each term the gradient of its node.
        needs_weights: whether gradients of filters and parameters are wanted.
    """

    source: Source
    rows: SourceRows
    filters: Filters
    statistics: Tensor
    coefficients: Coefficients
    blocks: dict[str, Block]
    paired: Tensor
    results: Results
    modules: dict[Module, tuple[Tensor, Tensor]]
    grads: dict[str, list[Tensor]]
    needs_weights: bool

    def run(self, into: Tensor | None) -> tuple[Tensor | None, list[Tensor | None]]:
        """Those of the state and of the source's parameters.

        ``into`` is what the state's gradient is so far, and is overwritten.
        """
        total = self._skips(into)
        total, of_modules = self._modules(total)
        total, of_reduces = self._reduces(total)
        total = self._pools(total)
        if not self.source.first:
            return total, [*of_reduces, *of_modules]
        dus, of_second = self._second_units()
        (dx,), _, *found = self.coefficients.primitives("separable_backward")(
            [self.results.x],
            self.results.first,
            [*dus, *self.grads.get("single", [])],
            *self.coefficients.rows_of(self.blocks["first"]),
            self.filters.depthwise,
            self.filters.pointwise,
            stride=self.source.stride,
            dilations=[unit.dilation for unit in self.source.first],
            needs_weights=self.needs_weights,
            into=total,
        )
        of_first = _in_one_list(found, len(self.source.first))
        return dx, [*of_first, *of_second, *of_reduces, *of_modules]

    def _skips(self, total: Tensor | None) -> Tensor | None:
        if "skip" not in self.grads:
            return total
        grads, p = self.grads["skip"], self.blocks["skip"].p
        if total is not None:  # which has the row of ones behind the others
            grads, p = [*grads, total], slice(p.start, p.stop + 1)
        return self._sum(grads, p, 0)

    def _modules(self, total: Tensor | None) -> tuple[Tensor | None, list[Tensor | None]]:
        parameters: list[Tensor | None] = []
        for number, (module, (leaf, y)) in enumerate(
            zip(self.source.modules.values(), self.modules.values(), strict=True)
        ):
            own = [weight for weight in module.parameters() if weight.requires_grad]
            p = self.coefficients.table[self.blocks["module"].p.start + number]
            dy = self.grads["module"][number] * p.view(1, -1, 1, 1)
            wanted = [leaf, *own] if self.needs_weights else [leaf]
            found: tuple[Tensor | None, ...] = (None,) * len(wanted)
            if y.requires_grad:
                found = torch.autograd.grad(
                    y, wanted, dy.to(y.dtype), allow_unused=True, retain_graph=True
                )
            of_own = dict(zip(own, found[1:], strict=False))
            parameters += [of_own.get(weight) for weight in module.parameters()]
            if found[0] is not None:
                dx = found[0].contiguous(memory_format=torch.channels_last)
                total = dx if total is None else total.add_(dx)
        return total, parameters

    def _reduces(self, total: Tensor | None) -> tuple[Tensor | None, list[Tensor | None]]:
        if not self.source.reduces:
            return total, []
        p, _, r = self.blocks["reduce"]
        dzs = [
            self._through_norm([grad], z, p.start + 2 * k, r.start + k)
            for k, (grad, z) in enumerate(
                zip(self.grads["reduce"], self.results.reduces, strict=True)
            )
        ]
        total, *found = reduces_backward(
            self.results.x,
            dzs,
            self.filters.even,
            self.filters.odd,
            needs_weights=self.needs_weights,
            into=total,
        )
        return total, _in_one_list(found, len(dzs))

    def _pools(self, total: Tensor | None) -> Tensor | None:
        if not self.results.pools:
            return total
        of_pools = {}
        for kind, pooled in self.results.pools.items():
            block = self.blocks[kind]
            of_pools[kind] = self._through_norm(
                self.grads[kind], pooled, block.p.start, block.r.start
            )
        out: Tensor = self.coefficients.primitives("pools_backward")(
            self.results.x, *(of_pools.get(kind) for kind in POOLS), self.source.stride, total
        )
        return out

    def _through_norm(self, grads: list[Tensor], z: Tensor, p: int, r: int) -> Tensor:
        """sum_k p_k grad_k + q z + r; from row ``p`` on come all p, and q."""
        stop = p + len(grads)
        if self.coefficients.batch_statistics:
            return self._sum([*grads, z], slice(p, stop + 1), r)
        return self._sum(grads, slice(p, stop), 0)

    def _sum(self, xs: list[Tensor], a: slice, b: int) -> Tensor:
        """A sum with rows of coefficients; row 0 holds zeros."""
        table = self.coefficients.table
        out: Tensor = self.coefficients.primitives("norm_sum_forward")(xs, table[a], table[b])
        return out

    def _second_units(self) -> tuple[list[Tensor], list[Tensor | None]]:
        """Gradients of the first blocks' normalized results, and of the second units' filters.

        Enters their coefficients.
        """
        source, results, filters = self.source, self.results, self.filters
        if not source.second:
            return [], []
        dus, (s0, s1), *found = self.coefficients.primitives("separable_backward")(
            results.first[: len(source.second)],
            results.second,
            self.grads["second"],
            *self.coefficients.rows_of(self.blocks["second"]),
            filters.depthwise2,
            filters.pointwise2,
            **_of_second(source, self.rows, self.statistics),
            needs_weights=self.needs_weights,
        )
        paired = slice(self.rows.first, self.rows.first + len(source.paired))
        mean, rstd = self.statistics[MEAN, paired], self.statistics[RSTD, paired]
        self.coefficients.enter(self.paired, rstd, mean, rstd, s0, s1)
        return dus, _in_one_list(found, len(source.second))


def _in_one_list(
    kinds: Sequence[Sequence[Tensor | None] | None], count: int
) -> list[Tensor | None]:
    """Gradients of filters of several kinds, so many each; None where none are wanted."""
    return [gradient for kind in kinds for gradient in kind or [None] * count]
