"""A search cell as one step of autograd.

Forward: for each source its units and pools (:mod:`ssfnas.spaces.fused_source`), for each node one
normalised sum over all its candidates. Backward, from the last node to the first: one reduction
over the candidates of a node gives the gradients of their weights and what BatchNorm's gradient
needs, then the gradients of the source that this node is.

Kept for the backward pass are the states, the results of 1x1 convolutions and of pools, and the
statistics. Depthwise results and ReLUs are computed again, and gradients of candidates never
written.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ssfnas.ops.autocast import without_autocast
from ssfnas.ops.layout import accumulator
from ssfnas.ops.selection import AUTO, choose, has_op, primitive, requested
from ssfnas.spaces import fused_source
from ssfnas.spaces.cell_layout import CellLayout
from ssfnas.spaces.fused_source import Call, Filters, Results, Uses, normalisation_gradient

NHWC = torch.channels_last


class Rows(NamedTuple):
    """Index tensors of a layout on one device.

    Attributes:
        node_rows: for each node, its terms' rows among the statistics of all sources before it;
            row 0 is the identity's.
        node_weights: for each node, its terms' places in the flattened table of weights.
        source_terms: for each source and kind, the rows of its terms among the coefficients of all
            nodes after it.
        first_order: for each source, the ``order`` of :func:`fused_source.backward`.
        second_inputs: for each source, the first units that second ones read.
    """

    node_rows: list[Tensor]
    node_weights: list[Tensor]
    source_terms: list[dict[str, Tensor]]
    first_order: list[Tensor]
    second_inputs: list[Tensor]


class FusedCell:
    """Computes what its :class:`~ssfnas.spaces.cells.SearchCell` does, with the same modules.

    Args:
        layout: of the cell.
        operations: candidates an edge.
    """

    def __init__(self, layout: CellLayout, operations: int) -> None:
        self.layout = layout
        self.operations = operations
        # By source and kind, each term's (node, number in the node).
        self.uses: list[dict[str, list[tuple[int, int]]]] = [{} for _ in layout.sources]
        for node, terms in enumerate(layout.terms):
            for number, term in enumerate(terms):
                self.uses[term.source].setdefault(term.kind, []).append((node, number))
        self._rows: dict[torch.device, Rows] = {}

    def __call__(self, call: Call, s0: Tensor, s1: Tensor, weights: Tensor) -> Tensor:
        """Preprocessed inputs [N, C, h, w], weights [E, O] -> all nodes [N, nodes * C, h', w']."""
        parameters = [*self.layout.filters(), *self.layout.module_parameters()]
        output: Tensor = _CellFunction.apply(self, call, s0, s1, weights, *parameters)
        return output

    def rows(self, device: torch.device) -> Rows:
        """The index tensors on a device; made once."""
        if device not in self._rows:
            self._rows[device] = _make_rows(self, device)
        return self._rows[device]

    def split_filters(self, parameters: Sequence[Tensor]) -> list[Filters]:
        """The filters of each source, from those of the layout in one list."""
        remaining = iter(parameters)
        return [
            Filters(
                *(
                    list(itertools.islice(remaining, len(units)))
                    for units in (source.first, source.first, source.second, source.second)
                )
            )
            for source in self.layout.sources
        ]


def _make_rows(cell: FusedCell, device: torch.device) -> Rows:
    def index(values: Sequence[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=device)

    sources, terms = cell.layout.sources, cell.layout.terms
    first_rows: list[dict[str, int]] = []
    row = 1
    for source in sources:
        after_first = row + len(source.first)
        after_second = after_first + len(source.second)
        first_rows.append(
            {"first": row, "second": after_first, "max": after_second, "avg": after_second + 1}
        )
        row = after_second + (2 if source.pools else 0)
    node_rows, node_weights = [], []
    for node in terms:
        found = [first_rows[term.source].get(term.kind, -term.position) for term in node]
        node_rows.append(index([at + term.position for at, term in zip(found, node, strict=True)]))
        node_weights.append(
            index([term.place[0] * cell.operations + term.place[1] for term in node])
        )
    source_terms = []
    for state, uses in enumerate(cell.uses):
        starts, total = {}, 0
        for number in range(max(state - 1, 0), len(terms)):
            starts[number] = total
            total += len(terms[number])
        source_terms.append(
            {kind: index([starts[n] + k for n, k in places]) for kind, places in uses.items()}
        )
    return Rows(
        node_rows,
        node_weights,
        source_terms,
        [index(fused_source.places(source)) for source in sources],
        [index(source.inputs) for source in sources],
    )


class _Node(NamedTuple):
    """What a node leaves for the backward pass: [terms, C] each."""

    mean: Tensor
    rstd: Tensor
    a: Tensor


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
        layout, rows = cell.layout, cell.rows(s0.device)
        modules = []
        with without_autocast(s0):
            primitives = _primitives("candidate_stencils", states)
            flat = weights.to(accumulator(s0.dtype)).flatten()
            means = [flat.new_zeros(1, s0.shape[1])]
            rstds = [torch.ones_like(means[0])]
        sources: list[Results] = []
        nodes: list[_Node] = []
        filters = cell.split_filters(rest)
        for state, source in enumerate(layout.sources):
            modules.append(fused_source.run_modules(source.modules, states[state]))
            with without_autocast(s0):
                results, ctx.count = fused_source.forward(
                    call, primitives, source, rows.second_inputs[state], states[state],
                    filters[state],
                )  # fmt: skip
                means.append(results.mean)
                rstds.append(results.rstd)
                sources.append(results)
                if state == 0:
                    continue
                number = state - 1
                zs = [sources[t.source].find(t, modules[t.source]) for t in layout.terms[number]]
                mean = torch.cat(means).index_select(0, rows.node_rows[number])
                rstd = torch.cat(rstds).index_select(0, rows.node_rows[number])
                a = flat.index_select(0, rows.node_weights[number])[:, None] * rstd
                total = _primitives("mixed_norm_sum", zs)("norm_sum_forward")
                states.append(total(zs, a, -(a * mean).sum(0)))
                nodes.append(_Node(mean, rstd, a))
        saved: list[Tensor] = []
        ctx.packed = _pack([sources, nodes, list(rest)], saved)
        ctx.save_for_backward(*saved)
        ctx.cell, ctx.call, ctx.modules = cell, call, modules
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
        sources, nodes, parameters = _unpack(ctx.packed, ctx.saved_tensors)
        _, _, needs_s0, needs_s1, needs_table, *needs = ctx.needs_input_grad
        with without_autocast(grad):
            work = _Backward(ctx.cell, ctx.call, ctx.modules, ctx.count, sources, nodes)
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
        nodes: list[_Node],
    ) -> None:
        self.cell, self.call, self.modules, self.count = cell, call, modules, count
        self.sources, self.nodes = sources, nodes
        x = sources[0].x
        self.rows = cell.rows(x.device)
        self.primitives = _primitives("candidate_stencils", [x])
        self.grads: dict[int, Tensor] = {}
        self.coefficients: dict[int, tuple[Tensor, Tensor | None, Tensor | None]] = {}

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
        edges = layout.nodes * (layout.nodes + 3) // 2
        table = self.nodes[0].a.new_zeros(edges * self.cell.operations)
        found: dict[int, fused_source.Gradients] = {}
        inputs: list[Tensor | None] = [None, None]
        for state in reversed(range(layout.nodes + 2)):
            total = None
            if state >= 2:
                start = (state - 2) * channels
                # A copy: the gradient of the node as a source is added to it.
                total = grad[:, start : start + channels].clone(memory_format=NHWC)
            if state <= layout.nodes and (state >= 2 or needs_inputs[state] or needs_parameters):
                found[state] = fused_source.backward(
                    self.call,
                    self.primitives,
                    _primitives("mixed_norm_sum", [self.sources[0].x])("norm_sum_forward"),
                    layout.sources[state],
                    self.rows.second_inputs[state],
                    self.rows.first_order[state],
                    self.sources[state],
                    self.modules[state],
                    filters[state],
                    self._uses(state),
                    self.count,
                    into=total,
                    needs_weights=needs_parameters,
                )
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
                d_filters += [None] * (2 * len(source.first) + 2 * len(source.second))
                count = sum(len(list(m.parameters())) for m in source.modules.values())
                d_parameters += [None] * count
        return inputs, table, d_filters, d_parameters

    def _reduce(self, number: int, grad: Tensor, table: Tensor) -> None:
        """The sums over a node's gradient: of its weights, and for its candidates' gradients."""
        node, call = self.nodes[number], self.call
        terms = self.cell.layout.terms[number]
        zs = [self.sources[t.source].find(t, self.modules[t.source]) for t in terms]
        self.grads[number] = grad
        s0, s1 = _primitives("mixed_norm_sum", zs)("norm_sum_reduce")(
            grad, zs, node.mean, node.rstd
        )
        # Of this process alone: gradients of weights are averaged over processes later.
        table.index_copy_(0, self.rows.node_weights[number], s1.sum(1))
        if not call.batch_statistics:
            self.coefficients[number] = node.a, None, None
            return
        p, q, r = normalisation_gradient(call, node.a, node.mean, node.rstd, s0, s1, self.count)
        self.coefficients[number] = p, q, r

    def _uses(self, state: int) -> dict[str, Uses]:
        """What the nodes after a state take from it, by kind."""
        after = range(max(state - 1, 0), self.cell.layout.nodes)
        tables = [
            None if any(part is None for part in parts) else torch.cat(parts)  # type: ignore[arg-type]
            for parts in zip(*(self.coefficients[number] for number in after), strict=True)
        ]
        uses = {}
        for kind, index in self.rows.source_terms[state].items():
            p, q, r = (None if part is None else part.index_select(0, index) for part in tables)
            assert p is not None
            grads = [self.grads[number] for number, _ in self.cell.uses[state][kind]]
            uses[kind] = Uses(grads, p, q, r)
        return uses


def _primitives(op: str, tensors: Sequence[Tensor]) -> Callable[[str], Callable[..., Any]]:
    """Functions of the backend in force; PyTorch's for an op that a forced backend lacks."""
    asked = requested()
    name = choose(op, tensors, asked) if asked == AUTO or has_op(asked, op) else "torch"
    return lambda function: primitive(name, function)


def _pack(tree: Any, saved: list[Tensor]) -> Any:
    """The tree with numbers in place of its tensors, which are appended to ``saved``."""
    if isinstance(tree, Tensor):
        saved.append(tree)
        return len(saved) - 1
    if isinstance(tree, dict):
        return {key: _pack(value, saved) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_pack(value, saved) for value in tree]
    if isinstance(tree, tuple):
        return type(tree)(*(_pack(value, saved) for value in tree))
    return tree


def _unpack(tree: Any, saved: Sequence[Tensor]) -> Any:
    """The tree that :func:`_pack` took apart."""
    if isinstance(tree, int):
        return saved[tree]
    if isinstance(tree, dict):
        return {key: _unpack(value, saved) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_unpack(value, saved) for value in tree]
    if isinstance(tree, tuple):
        return type(tree)(*(_unpack(value, saved) for value in tree))
    return tree
