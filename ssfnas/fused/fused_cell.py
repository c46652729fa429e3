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

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from ssfnas.fused import fused_source
from ssfnas.fused.cell_layout import CellLayout, Filters
from ssfnas.fused.cell_statistics import Call, Coefficients, Primitives, Statistics
from ssfnas.fused.cell_tables import CellTables
from ssfnas.fused.fused_source import Results
from ssfnas.kernels.layout import accumulator
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
        # Of each source and kind of parameter, how many there are.
        self.counts = [[len(kind) for kind in source.parameters] for source in layout.sources]

    def __call__(self, call: Call, s0: Tensor, s1: Tensor, weights: Tensor) -> Tensor:
        """Preprocessed inputs [N, C, h, w], weights [E, O] -> all nodes [N, nodes * C, h', w']."""
        output: Tensor = _CellFunction.apply(self, call, s0, s1, weights, *self.layout.parameters())
        return output

    def split_filters(self, parameters: Sequence[Tensor]) -> list[Filters]:
        """The filters of each source, from the parameters of the layout."""
        remaining = iter(parameters)
        kinds = [
            [list(itertools.islice(remaining, count)) for count in counts] for counts in self.counts
        ]
        return [Filters(*filters) for *filters, _ in kinds]


class _CellFunction(torch.autograd.Function):
    """(fused cell, call, s0, s1, weights, *parameters of the layout) -> nodes."""

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
            primitives = _primitives([s0])
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
                states.append(_primitives(zs)("norm_sum_forward")(zs, node[A], b))
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
            coefficients = Coefficients(
                ctx.call,
                _primitives([sources[0].x]),
                ctx.cell.tables.gradients(statistics, sources[0].x.shape[1]),
                ctx.count,
            )
            work = _Backward(ctx.cell, coefficients, ctx.modules, sources, statistics, nodes)
            table = statistics.new_zeros(ctx.weights.numel())
            inputs, gradients = work.run(grad, table, parameters, (needs_s0, needs_s1), any(needs))
        rest = [
            None if found is None or not needed else found.to(parameter.dtype)
            for found, parameter, needed in zip(gradients, parameters, needs, strict=True)
        ]
        d_weights = table.to(ctx.weights.dtype).view(ctx.weights.shape) if needs_table else None
        return None, None, *inputs, d_weights, *rest


@dataclass
class _Backward:
    """The backward pass of one cell; ``grads`` are those of its nodes, as far as they are known."""

    cell: FusedCell
    coefficients: Coefficients
    modules: list[dict[fused_source.Module, tuple[Tensor, Tensor]]]
    sources: list[Results]
    statistics: Tensor
    nodes: list[Tensor]
    grads: dict[int, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.indices = self.cell.tables.indices(self.statistics.device)

    def run(
        self,
        grad: Tensor,
        table: Tensor,
        parameters: Sequence[Tensor],
        needs_inputs: tuple[bool, bool],
        needs_parameters: bool,
    ) -> tuple[list[Tensor | None], list[Tensor | None]]:
        """Gradients of both inputs, and of the parameters; fills that of all weights."""
        layout = self.cell.layout
        filters = self.cell.split_filters(parameters)
        channels = self.sources[0].x.shape[1]
        found: dict[int, list[Tensor | None]] = {}
        inputs: list[Tensor | None] = [None, None]
        for state in reversed(range(layout.nodes + 2)):
            total = None
            if state >= 2:
                start = (state - 2) * channels
                # A copy: the gradient of the node as a source is added to it.
                total = grad[:, start : start + channels].clone(memory_format=NHWC)
            if state <= layout.nodes and (state >= 2 or needs_inputs[state] or needs_parameters):
                source = self._source(state, filters[state], needs_parameters)
                total, found[state] = source.run(total)
            if state >= 2:
                assert total is not None
                self._reduce(state - 2, total, table)
            else:
                inputs[state] = total
        d_parameters: list[Tensor | None] = []
        for state, counts in enumerate(self.cell.counts):
            d_parameters += found.get(state) or [None] * sum(counts)
        return inputs, d_parameters

    def _source(self, state: int, filters: Filters, needs_weights: bool) -> fused_source.Backward:
        """The backward pass of one source, once the nodes after it have entered what they know."""
        tables = self.cell.tables
        grads = {
            kind: [self.grads[number] for number, _ in terms]
            for kind, terms in tables.uses[state].items()
        }
        return fused_source.Backward(
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
            needs_weights=needs_weights,
        )

    def _reduce(self, number: int, grad: Tensor, table: Tensor) -> None:
        """The sums over a node's gradient: of its weights, and for its candidates' gradients."""
        mean, rstd, a = self.nodes[number]
        terms = self.cell.layout.terms[number]
        zs = [self.sources[t.source].find(t, self.modules[t.source]) for t in terms]
        self.grads[number] = grad
        s0, s1 = _primitives(zs)("norm_sum_reduce")(grad, zs, mean, rstd)
        # Of this process alone: gradients of weights are averaged over processes later.
        table.index_copy_(0, self.indices.weights[number], s1.sum(1))
        self.coefficients.enter(self.indices.gradients[number], a, mean, rstd, s0, s1)


def _values(x: Tensor, stride: int) -> int:
    """How many values a channel of a cell's results has."""
    height, width = (-(-size // stride) for size in x.shape[-2:])
    return x.shape[0] * height * width


def _primitives(tensors: Sequence[Tensor]) -> Primitives:
    """Functions by name, of the backends in force for these tensors.

    PyTorch's stands in for an op that a forced backend lacks.
    """
    asked = requested()

    @functools.cache
    def backend_of(op: str) -> str:
        return choose(op, tensors, asked) if asked == AUTO or has_op(asked, op) else "torch"

    return lambda function: primitive(backend_of(op_of(function)), function)
