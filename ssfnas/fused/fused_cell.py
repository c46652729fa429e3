"""A search cell as one step of autograd.

Forward: for each source its units and pools (:mod:`ssfnas.fused.fused_source`), for each node one
normalized sum over all its candidates. Backward, from the last node to the first: one reduction
over the candidates of a node gives the gradients of their weights and what BatchNorm's gradient
needs, then the gradients of the source that this node is.

Kept for the backward pass are the states, the results of 1x1 convolutions and of pools, and the
statistics. Depthwise results and ReLUs are computed again, and gradients of candidates never
written.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from ssfnas.fused import fused_source
from ssfnas.fused.cell_layout import CellLayout
from ssfnas.fused.cell_statistics import Call, Primitives, Statistics
from ssfnas.fused.cell_tables import CellTables
from ssfnas.fused.fused_source import Filters, Results
from ssfnas.kernels.layout import accumulator
from ssfnas.layers.cells import edge_count
from ssfnas.ops.autocast import without_autocast
from ssfnas.ops.selection import AUTO, choose, has_op, op_of, primitive, requested

NHWC = torch.channels_last
A = 2  # of a node's mean, rstd and a


class FusedCell:
    """Computes what its :class:`~ssfnas.layers.cells.SearchCell` does, with the same modules.

    Args:
        layout: of the cell.
        operations: candidates an edge.
    """

    def __init__(self, layout: CellLayout, operations: int) -> None:
        self.layout = layout
        self.tables = CellTables(layout, operations)
        self.operations = operations

    def __call__(self, call: Call, s0: Tensor, s1: Tensor, weights: Tensor) -> Tensor:
        """Preprocessed inputs [N, C, h, w], weights [E, O] -> all nodes [N, nodes * C, h', w']."""
        parameters = [*self.layout.filters(), *self.layout.module_parameters()]
        output: Tensor = _CellFunction.apply(self, call, s0, s1, weights, *parameters)
        return output

    def split_filters(self, parameters: Sequence[Tensor]) -> list[Filters]:
        """The filters of each source, from those of the layout in one list."""
        remaining = iter(parameters)
        return [
            Filters(*(list(itertools.islice(remaining, n)) for n in Filters.counts(source)))
            for source in self.layout.sources
        ]


class _CellFunction(torch.autograd.Function):
    """(fused cell, call, s0, s1, weights, *filters, *module parameters) -> nodes."""

    @staticmethod
    def forward(
        ctx: Any,
        cell: FusedCell,
        call: Call,
        s0: Tensor,
        s1: Tensor,
        weights: Tensor,
        *rest: Tensor,
    ) -> Tensor:
        states = [x.contiguous(memory_format=NHWC) for x in (s0, s1)]
        layout, tables, channels = cell.layout, cell.tables, s0.shape[1]
        indices = tables.indices(s0.device)
        with without_autocast(s0):
            primitives = _primitives(s0)
            flat = weights.to(accumulator(s0.dtype)).flatten()
            statistics = Statistics(
                call,
                primitives,
                tables.statistics(flat, channels),
                layout.norm_rows,
                _values(states[0], layout.sources[0].stride),
            )
        modules, sources, nodes = [], [], []
        filters = cell.split_filters(rest)
        for state, source in enumerate(layout.sources):
            modules.append(fused_source.run_modules(source.modules, states[state]))
            with without_autocast(s0):
                sources.append(
                    fused_source.forward(
                        primitives,
                        _sums([states[state]]),
                        source,
                        tables.sources[state],
                        statistics,
                        states[state],
                        filters[state],
                    )
                )
                if state == 0:
                    continue
                number = state - 1
                zs = [sources[t.source].find(t, modules[t.source]) for t in layout.terms[number]]
                node, b = primitives("node_coefficients")(
                    statistics.table, indices.statistics[number], flat, indices.weights[number]
                )
                states.append(_sums(zs)("norm_sum_forward")(zs, node[A], b))
                nodes.append(node)
        statistics.finish()
        saved, ctx.spec = tree_flatten((sources, statistics.table, nodes))
        ctx.save_for_backward(*rest, *saved)
        ctx.cell, ctx.call, ctx.modules, ctx.count = cell, call, modules, statistics.count
        ctx.weights = torch.empty_like(weights, device="meta")
        return torch.cat(states[2:], dim=1).contiguous(memory_format=NHWC)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        if torch.is_grad_enabled():
            # once_differentiable would let torch.autograd.grad return a part of the truth.
            raise RuntimeError(
                "a fused cell is differentiable once, and create_graph=True asks for more: compute "
                'the loss under ssfnas.ops.backend("reference")'
            )
        _, _, needs_s0, needs_s1, needs_table, *needs = ctx.needs_input_grad
        parameters, saved = ctx.saved_tensors[: len(needs)], ctx.saved_tensors[len(needs) :]
        sources, statistics, nodes = tree_unflatten(saved, ctx.spec)
        with without_autocast(grad):
            work = _Backward(ctx.cell, ctx.call, ctx.modules, ctx.count, sources, statistics, nodes)
            inputs, table, filters, module_grads = work.run(
                grad, parameters, (needs_s0, needs_s1), any(needs)
            )
        rest = [
            None if found is None or not needed else found.to(parameter.dtype)
            for found, parameter, needed in zip(
                [*filters, *module_grads], parameters, needs, strict=True
            )
        ]
        d_weights = table.to(ctx.weights.dtype).view(ctx.weights.shape) if needs_table else None
        return None, None, *inputs, d_weights, *rest


class _Backward:
    """The backward pass of one cell."""

    def __init__(
        self,
        cell: FusedCell,
        call: Call,
        modules: list[dict[fused_source.Module, tuple[Tensor, Tensor]]],
        count: int | Tensor,
        sources: list[Results],
        statistics: Tensor,
        nodes: list[Tensor],
    ) -> None:
        self.cell, self.call, self.modules, self.count = cell, call, modules, count
        self.sources, self.statistics, self.nodes = sources, statistics, nodes
        x = sources[0].x
        self.indices = cell.tables.indices(x.device)
        self.primitives = _primitives(x)
        self.coefficients = cell.tables.gradients(statistics, x.shape[1])
        self.grads: dict[int, Tensor] = {}

    def run(
        self,
        grad: Tensor,
        parameters: Sequence[Tensor],
        needs_inputs: tuple[bool, bool],
        needs_parameters: bool,
    ) -> tuple[list[Tensor | None], Tensor, list[Tensor | None], list[Tensor | None]]:
        """Gradients of both inputs, the flat table of weights, filters and module parameters."""
        layout = self.cell.layout
        filters = self.cell.split_filters(parameters)
        channels = self.sources[0].x.shape[1]
        table = self.statistics.new_zeros(edge_count(layout.nodes) * self.cell.operations)
        found: dict[int, fused_source.Gradients] = {}
        inputs: list[Tensor | None] = [None, None]
        for state in reversed(range(layout.nodes + 2)):
            total = None
            if state >= 2:
                start = (state - 2) * channels
                # A copy: the gradient of the node as a source is added to it.
                total = grad[:, start : start + channels].clone(memory_format=NHWC)
            if state <= layout.nodes and (state >= 2 or needs_inputs[state] or needs_parameters):
                found[state] = self._source(state, filters[state], needs_parameters).run(total)
                total = found[state].x
            if state >= 2:
                assert total is not None
                self._reduce(state - 2, total, table)
            else:
                inputs[state] = total
        d_filters: list[Tensor | None] = []
        d_parameters: list[Tensor | None] = []
        for state, source in enumerate(layout.sources):
            if state in found:
                d_filters += found[state].filters
                d_parameters += found[state].parameters
            else:
                d_filters += [None] * sum(Filters.counts(source))
                count = sum(len(list(m.parameters())) for m in source.modules.values())
                d_parameters += [None] * count
        return inputs, table, d_filters, d_parameters

    def _source(self, state: int, filters: Filters, needs_weights: bool) -> fused_source.Backward:
        """The backward pass of one source, once the nodes after it have entered what they know."""
        tables = self.cell.tables
        grads = {
            kind: [self.grads[number] for number, _ in terms]
            for kind, terms in tables.uses[state].items()
        }
        return fused_source.Backward(
            call=self.call,
            primitives=self.primitives,
            sums=_sums([self.sources[state].x]),
            source=self.cell.layout.sources[state],
            rows=tables.sources[state],
            filters=filters,
            statistics=self.statistics,
            coefficients=self.coefficients,
            blocks=tables.blocks[state],
            paired=self.indices.paired[state],
            results=self.sources[state],
            modules=self.modules[state],
            grads=grads,
            count=self.count,
            needs_weights=needs_weights,
        )

    def _reduce(self, number: int, grad: Tensor, table: Tensor) -> None:
        """The sums over a node's gradient: of its weights, and for its candidates' gradients."""
        mean, rstd, a = self.nodes[number]
        terms = self.cell.layout.terms[number]
        zs = [self.sources[t.source].find(t, self.modules[t.source]) for t in terms]
        self.grads[number] = grad
        s0, s1 = _sums(zs)("norm_sum_reduce")(grad, zs, mean, rstd)
        # Of this process alone: gradients of weights are averaged over processes later.
        table.index_copy_(0, self.indices.weights[number], s1.sum(1))
        fused_source.enter_gradients(
            self.call,
            self.primitives,
            self.coefficients,
            self.indices.gradients[number],
            a,
            mean,
            rstd,
            s0,
            s1,
            self.count,
        )


def _values(x: Tensor, stride: int) -> int:
    """How many values a channel of a cell's results has."""
    height, width = (-(-size // stride) for size in x.shape[-2:])
    return x.shape[0] * height * width


def _primitives(x: Tensor) -> Primitives:
    """Candidates and coefficients by name, for states like this one."""
    by_op = {op: _backend(op, [x]) for op in ("candidate_operations", "norm_coefficients")}
    return lambda function: primitive(by_op[op_of(function)], function)


def _sums(zs: Sequence[Tensor]) -> Primitives:
    """Normalized sums by name, for these tensors."""
    name = _backend("mixed_norm_sum", zs)
    return lambda function: primitive(name, function)


def _backend(op: str, tensors: Sequence[Tensor]) -> str:
    """The backend in force; PyTorch's for an op that a forced backend lacks."""
    asked = requested()
    return choose(op, tensors, asked) if asked == AUTO or has_op(asked, op) else "torch"
