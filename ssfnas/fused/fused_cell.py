"""A cell as one step of autograd.

Forward: for each state the candidates that leave it, a family at a time
(:mod:`ssfnas.fused.families`), and each further state as one normalized sum of what arrives.
Backward, from the last state to the first: one reduction over a state's summands gives the
gradients of their weights, of their BatchNorms' weights, and what BatchNorm's gradient needs
(:mod:`ssfnas.ops.norm_coefficients`); then come the gradients of what leaves the state before.

Kept for the backward pass are the states, results of 1x1 convolutions and of normalized pools, and
the statistics. Depthwise results and ReLUs are computed again, and gradients of candidates never
written. Cells hand nodes to each other as they are, side by side but never copied into one tensor.
What two cells read, the second reads through the first, which so gets the second's gradient and
adds its own in the pass that computes it.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ssfnas.fused.cell_layout import INPUTS, PREPROCESSED, CellLayout
from ssfnas.fused.cell_statistics import Call, Coefficients, Statistics
from ssfnas.fused.cell_tables import Tables
from ssfnas.fused.families import Backward, Modules, Parts, Use
from ssfnas.fused.partial_channels import Bypasses, BypassGradients, Passing
from ssfnas.fused.saved_tensors import apart, together
from ssfnas.kernels.layout import accumulator
from ssfnas.ops.autocast import without_autocast
from ssfnas.ops.differentiable_once import differentiable_once
from ssfnas.ops.primitives import node_coefficients, norm_sum_forward, norm_sum_reduce

NHWC = torch.channels_last
_A = 2  # of a sum's mean, rstd and a
_ENTRIES, _CANDIDATES = 0, -1  # of groups of tables, of which there may be one


class _Rows(NamedTuple):
    """Rows of one state's summands, as int64 tensors on a device.

    Attributes:
        statistics: [K].
        weights: [K], places among the cell's weights, behind which comes a one.
        paths: [K], places among the cell's factors, behind which come ones; None: ones alone.
        summed: [S], the places of those whose sums over the gradient are needed.
        gradients: [3, S], the rows of p, q and r of these.
        sum_rows, sum_weights: [S], ``statistics`` and ``weights`` of these.
    """

    statistics: Tensor
    weights: Tensor
    paths: Tensor | None
    summed: Tensor
    gradients: Tensor
    sum_rows: Tensor
    sum_weights: Tensor


class FusedCell:
    """Computes what a cell does, with the same modules.

    Args:
        layout: of the cell.
        weights: how many weights its candidates have; 0: none.
        paths: how many of its candidates may be dropped.

    Attributes:
        summed: for each state, the places of the summands whose sums over its gradient are needed.
        tables: of the candidates.
        groups: all tables: with partial channels first those of the preprocessing, which are wider.
        bypasses: with partial channels.
    """

    def __init__(self, layout: CellLayout, weights: int = 0, paths: int = 0) -> None:
        self.layout, self.weights, self.paths = layout, weights, paths
        channels = layout.entry_rows.norms[0][0].num_features
        self.tables = Tables(layout.rows, channels // layout.share)
        self.groups = [self.tables]
        self.bypasses: Bypasses | None = None
        if layout.share > 1:
            self.groups.insert(0, Tables(layout.entry_rows, channels))
            self.bypasses = Bypasses(layout, channels)
        self.summed = [
            [
                place
                for place, term in enumerate(terms)
                if term.is_normalized or term.candidate.weight is not None
            ]
            for terms in layout.terms
        ]
        self._weighted = [
            any(term.candidate.weight is not None for term in terms) for terms in layout.terms
        ]
        self._counts = [len(family.parameters()) for family in layout.families]
        self._rows: dict[torch.device, list[_Rows]] = {}

    def __call__(
        self,
        call: Call,
        s0: Sequence[Tensor],
        s1: Sequence[Tensor],
        weights: Tensor | None = None,
        factors: Tensor | None = None,
        edges: Tensor | None = None,
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Both inputs -> the states of the output, channels_last, and the second input again.

        Args:
            call: how the pass is made.
            s0, s1: tensors [N, c, h, w] side by side.
            weights: of the candidates, in any shape.
            factors: of the paths for each image, [paths, N].
            edges: with partial channels of what passes by on each edge, [E]; None: ones.

        Returns:
            [N, C, h', w'] each: the output is what they are side by side; and ``s1`` as whoever
            comes next should read it.
        """
        call.keeps_graphs = torch.is_grad_enabled()
        hands_on = call.keeps_graphs and all(x.requires_grad for x in s1)
        found: tuple[Tensor, ...] = _CellFunction.apply(
            self,
            call,
            len(s0),
            len(s1),
            hands_on,
            weights,
            factors,
            edges,
            *s0,
            *s1,
            *self.parameters(),
        )
        nodes = len(self.layout.output)
        return list(found[:nodes]), list(found[nodes:] if hands_on else s1)

    def parameters(self) -> list[Tensor]:
        """Those of each family, then the BatchNorms' weights and biases, group by group."""
        of_families = (p for family in self.layout.families for p in family.parameters())
        of_norms = (p for tables in self.groups for p in tables.affine_parameters())
        return [*of_families, *of_norms]

    def split(self, parameters: Sequence[Tensor]) -> tuple[list[list[Tensor]], list[list[Tensor]]]:
        """The parameters of each family, and those of each group's BatchNorms."""
        remaining = iter(parameters)
        of_families = [list(itertools.islice(remaining, count)) for count in self._counts]
        counts = [2 * len(tables.affine) for tables in self.groups]
        return of_families, [list(itertools.islice(remaining, count)) for count in counts]

    @staticmethod
    def group_of_sum(state: int) -> int:
        """The place of the tables, among :attr:`groups`, of what a state is a sum of."""
        return _ENTRIES if state < INPUTS + PREPROCESSED else _CANDIDATES

    @staticmethod
    def group_of_source(state: int) -> int:
        """Of the tables of what leaves a state."""
        return _ENTRIES if state < INPUTS else _CANDIDATES

    def has_weights(self, state: int) -> bool:
        """Whether any of a state's summands has one."""
        return self._weighted[state]

    def summands(
        self,
        state: int,
        places: Sequence[int] | None,
        states: Mapping[int, Parts],
        results: Sequence[Any],
    ) -> list[Tensor]:
        """What a state is a sum of: all, or those in some places.

        Args:
            state: which.
            places: of the summands; None: all.
            states: as candidates read them; they may be summands themselves.
            results: of the families.
        """
        terms = self.layout.terms[state]
        zs = []
        for term in terms if places is None else [terms[place] for place in places]:
            z = term.family.result(results[term.slot], term.number)
            zs += states[term.candidate.start] if z is None else [z]
        return zs

    def rows(self, device: torch.device) -> list[_Rows]:
        """Rows of each state's summands on a device; made once."""
        if device not in self._rows:
            lists = [self._rows_of(state) for state in range(len(self.layout.terms))]
            # All in one copy to the device: other operations may be chosen in each step.
            every = torch.tensor(
                [place for of_state in lists for rows in of_state for place in rows],
                dtype=torch.int64,
                device=device,
            ).split([len(rows) for of_state in lists for rows in of_state])
            parts = iter(every)
            made = []
            for _ in lists:
                statistics, weights, paths, summed, gradients, *of_sums = itertools.islice(parts, 7)
                own = paths if len(paths) else None
                made.append(
                    _Rows(statistics, weights, own, summed, gradients.view(3, -1), *of_sums)
                )
            self._rows[device] = made
        return self._rows[device]

    def _rows_of(self, state: int) -> list[list[int]]:
        """What :class:`_Rows` holds; no paths for ones alone."""
        terms, summed = self.layout.terms[state], self.summed[state]
        statistics = [term.row for term in terms]
        weights = [_place(term.candidate.weight, self.weights) for term in terms]
        paths = [_place(term.candidate.path, self.paths) for term in terms]
        gradients = [terms[place].family.gradient_rows(terms[place].number) for place in summed]
        return [
            statistics,
            weights,
            paths if any(path < self.paths for path in paths) else [],
            summed,
            [rows[kind] for kind in range(3) for rows in gradients],
            [statistics[place] for place in summed],
            [weights[place] for place in summed],
        ]


def _place(place: int | None, count: int) -> int:
    return count if place is None else place


class _Sum(NamedTuple):
    """How a state is made of its summands: sum_k f_kn (a_k z_k + b_k).

    Attributes:
        coefficients: mean, rstd and a, [3, K, C].
        b: [C], or [K, C] where there are factors.
        factors: [K, N], or None for ones.
    """

    coefficients: Tensor
    b: Tensor
    factors: Tensor | None

    def of(self, zs: list[Tensor]) -> Tensor:
        """The state."""
        return norm_sum_forward(zs, self.coefficients[_A], self.b, self.factors)


class _Kept(NamedTuple):
    """What the backward pass needs, besides parameters and the output.

    Attributes:
        weights: [W + 1], with a one behind.
        states: all but those of the output.
        results: of each family, but for modules.
        sums: of each state but the inputs.
        statistics: [5, 1 + R, C], of each group of tables.
        affine: weights and biases of the BatchNorms, [2, 1 + R, C], or None, likewise.
        passing: with partial channels.
    """

    weights: Tensor
    states: dict[int, Parts]
    results: list[Any]
    sums: list[_Sum]
    statistics: list[Tensor]
    affine: list[Tensor | None]
    passing: Passing | None


class _Needs(NamedTuple):
    """Which gradients are wanted."""

    inputs: tuple[bool, bool]
    weights: bool
    edges: bool
    parameters: bool


class _CellFunction(torch.autograd.Function):
    """A cell, differentiable.

    (cell, call, numbers of parts, whether the second input is handed on, weights, factors, edges,
    *parts, *parameters) -> nodes, and the parts of the second input where they are handed on.
    """

    @staticmethod
    def forward(
        ctx: Any,
        cell: FusedCell,
        call: Call,
        first: int,
        second: int,
        hands_on: bool,
        weights: Tensor | None,
        factors: Tensor | None,
        edges: Tensor | None,
        *tensors: Tensor,
    ) -> tuple[Tensor, ...]:
        inputs = [x.contiguous(memory_format=NHWC) for x in tensors[: first + second]]
        parameters, s0 = tensors[first + second :], inputs[0]
        states: dict[int, Parts] = {0: inputs[:first], 1: inputs[first:]}
        layout = cell.layout
        of_families, of_norms = cell.split(parameters)
        with without_autocast(s0):
            one = torch.ones(1, dtype=accumulator(s0.dtype), device=s0.device)
            flat = one if weights is None else torch.cat([weights.flatten().to(one), one])
            if factors is not None:
                factors = torch.cat([factors.to(one), one.expand(1, s0.shape[0])])
            affine = [
                tables.affine_rows(own, flat)
                for tables, own in zip(cell.groups, of_norms, strict=True)
            ]
            statistics = [
                Statistics(call, tables.rows, tables.statistics(flat), own)
                for tables, own in zip(cell.groups, affine, strict=True)
            ]
            passing = None
            if cell.bypasses is not None:
                ones = one.expand(cell.bypasses.edges)
                passing = Passing(ones if edges is None else edges.to(one), {}, {})
        results: list[Any] = []
        sums: list[_Sum] = []
        read = states if passing is None else dict(states)  # what candidates see of each
        for state, slots in enumerate(layout.sources):
            if state >= INPUTS:
                zs = cell.summands(state, None, read, results)
                with without_autocast(s0):
                    table = statistics[cell.group_of_sum(state)].table
                    sums.append(_sum_of(cell, state, table, flat, factors))
                    total = sums[-1].of(zs) if zs else None
                    if cell.bypasses is not None and passing is not None:
                        x, head = cell.bypasses.forward(passing, state, total, states)
                        states[state], read[state] = [x], [head]
                    elif total is not None:
                        states[state] = [total]
            of_source = statistics[cell.group_of_source(state)]
            for slot in slots:
                family = layout.families[slot]
                # Modules do as autocast wants.
                with nullcontext() if isinstance(family, Modules) else without_autocast(s0):
                    results.append(family.forward(read[state], of_families[slot], of_source))
        for own_statistics in statistics:
            own_statistics.finish()
        outputs = [states[state][0] for state in layout.output]
        pairs = list(zip(layout.families, results, strict=True))
        kept = _Kept(
            flat,
            {state: parts for state, parts in states.items() if state not in layout.output},
            [None if isinstance(f, Modules) else f.kept(result) for f, result in pairs],
            sums,
            [own.table for own in statistics],
            affine,
            passing,
        )
        saved: list[Tensor] = []
        ctx.kept = apart(kept, saved)
        ctx.save_for_backward(*outputs, *parameters, *saved)
        # Modules have graphs, which autograd must not see.
        ctx.modules = [result if isinstance(f, Modules) else None for f, result in pairs]
        ctx.cell, ctx.call, ctx.counts = cell, call, [own.counts for own in statistics]
        ctx.shape = None if weights is None else weights.shape
        ctx.parts = first, second
        ctx.set_materialize_grads(False)
        return *outputs, *(tensors[first : first + second] if hands_on else ())

    @staticmethod
    @differentiable_once("a fused cell")
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        known = next((grad for grad in grads if grad is not None), None)
        if known is None:  # of a cell that nothing reads
            return (None,) * len(ctx.needs_input_grad)
        _, _, _, _, _, needs_weights, _, needs_edges, *needs = ctx.needs_input_grad
        first, second = ctx.parts
        needs_inputs = any(needs[:first]), any(needs[first : first + second])
        needs = needs[first + second :]
        every = ctx.saved_tensors  # asked for once: checkpoints compute it then
        nodes = len(ctx.cell.layout.output)
        outputs, rest = every[:nodes], every[nodes:]
        parameters, saved = rest[: len(needs)], rest[len(needs) :]
        kept: _Kept = together(ctx.kept, saved)
        of_modules = zip(kept.results, ctx.modules, strict=True)
        kept = kept._replace(results=[own if of is None else of for own, of in of_modules])
        with without_autocast(known):
            groups = zip(ctx.cell.groups, kept.statistics, ctx.counts, strict=True)
            backward = _CellBackward(
                ctx.cell,
                ctx.call,
                kept,
                outputs,
                [Coefficients(ctx.call, t.gradients(own), counts) for t, own, counts in groups],
                _Needs(needs_inputs, needs_weights, needs_edges, any(needs)),
            )
            outside = {
                state: [grad]
                for state, grad in zip(ctx.cell.layout.output, grads[:nodes], strict=True)
            }
            outside[1] = list(grads[nodes:])
            found = backward.run(outside, parameters)
        wanted = [
            gradient.to(parameter.dtype) if gradient is not None and needed else None
            for gradient, needed, parameter in zip(found, needs, parameters, strict=True)
        ]
        # Weights are of any dtype, and autograd brings a gradient to that of its tensor.
        of_weights = backward.of_weights[:-1].view(ctx.shape) if needs_weights else None
        of_inputs: list[Tensor | None] = []
        for count, gradients in zip(ctx.parts, backward.of_inputs, strict=True):
            of_inputs += [None] * count if gradients is None else gradients
        of_edges = backward.bypasses.of_factors if backward.bypasses and needs_edges else None
        return None, None, None, None, None, of_weights, None, of_edges, *of_inputs, *wanted


def _sum_of(
    cell: FusedCell, state: int, statistics: Tensor, weights: Tensor, factors: Tensor | None
) -> _Sum:
    """How a state is made, once the statistics of its summands are there.

    Nothing arrives at a node of partial channels whose candidates are all closed, but what passes
    by them.
    """
    if not cell.layout.terms[state]:
        channels = statistics.shape[2]
        return _Sum(statistics.new_zeros(3, 0, channels), statistics.new_zeros(channels), None)
    rows = cell.rows(statistics.device)[state]
    own = None
    if factors is not None and rows.paths is not None:
        own = factors.index_select(0, rows.paths)
    coefficients, b = node_coefficients(
        statistics, rows.statistics, weights, rows.weights, own is not None
    )
    return _Sum(coefficients, b, own)


class _CellBackward:
    """The backward pass of a cell.

    Args:
        cell, call: of the forward pass.
        kept, outputs: what it left.
        coefficients: of each group of tables, to be filled.
        needs: which gradients are wanted.

    Attributes:
        of_inputs, of_weights: gradients that :meth:`run` finds.
    """

    def __init__(
        self,
        cell: FusedCell,
        call: Call,
        kept: _Kept,
        outputs: Sequence[Tensor],
        coefficients: list[Coefficients],
        needs: _Needs,
    ) -> None:
        self.cell, self.layout, self.call, self.needs = cell, cell.layout, call, needs
        self.kept, self.coefficients = kept, coefficients
        of_output = zip(self.layout.output, outputs, strict=True)
        self.states = kept.states | {state: [output] for state, output in of_output}
        self.read = self.states  # as candidates see them
        self.bypasses: BypassGradients | None = None
        if kept.passing is not None and cell.bypasses is not None:
            self.read = self.states | {s: [head] for s, head in kept.passing.heads.items()}
            self.bypasses = BypassGradients(cell.bypasses, kept.passing, self.states, needs.edges)
        self.grads: dict[int, Tensor] = {}
        self.of_inputs: list[Parts | None] = [None] * INPUTS
        self.of_weights = kept.weights.new_zeros(len(kept.weights))
        self.of_affine = [None if own is None else torch.zeros_like(own) for own in kept.affine]

    def run(
        self, outside: Mapping[int, Sequence[Tensor | None]], parameters: Sequence[Tensor]
    ) -> list[Tensor | None]:
        """The parameters' gradients, from the last state to the first.

        Args:
            outside: for states that are read outside of the cell, their gradients from there; they
                are left as they are.
            parameters: of the cell.
        """
        layout = self.layout
        of_families, _ = self.cell.split(parameters)
        found: list[list[Tensor | None]] = [[None] * len(own) for own in of_families]
        for state in reversed(range(len(layout.sources))):
            beyond, is_own = self._from_outside(state, outside.get(state, ())), False
            # Candidates with bypasses beside them see a part, which nothing outside reads.
            total = None if self.bypasses is not None and state >= INPUTS else beyond
            group = self.cell.group_of_source(state)
            needs_x = state >= INPUTS or self.needs.inputs[state]
            if needs_x or self.needs.parameters:
                for slot in layout.sources[state]:
                    uses = self._uses(slot)
                    if uses is None:
                        continue
                    given = Backward(
                        parts=self.read[state],
                        parameters=of_families[slot],
                        results=self.kept.results[slot],
                        uses=uses,
                        statistics=self.kept.statistics[group],
                        coefficients=self.coefficients[group],
                        affine_gradients=self.of_affine[group],
                        needs_x=needs_x,
                        needs_parameters=self.needs.parameters,
                    )
                    family = layout.families[slot]
                    if total is not None and family.overwrites and not is_own:
                        total = [part.clone(memory_format=NHWC) for part in total]
                    total, found[slot] = family.backward(given, total)
                    is_own = True
            if state < INPUTS:
                self.of_inputs[state] = total if needs_x else None
                continue
            grad = _only(total)
            if self.bypasses is not None:
                grad = self.bypasses.through(state, _only(beyond), grad)
            if grad is not None:
                self.grads[state] = grad
                self._reduce(state, grad)
        gradients = [gradient for own in found for gradient in own]
        for group, of_affine in enumerate(self.of_affine):
            if of_affine is not None:
                tables, unused = self.cell.groups[group], self._unused(group)
                gradients += tables.affine_gradients(of_affine, unused)
        return gradients

    def _unused(self, group: int) -> set[int]:
        """Rows of statistics that took no part, as of a preprocessed input that no edge leaves."""
        groups = self.cell.groups
        return {
            term.row
            for state in range(INPUTS, len(self.layout.terms))
            if state not in self.grads
            if groups[self.cell.group_of_sum(state)] is groups[group]
            for term in self.layout.terms[state]
        }

    def _from_outside(self, state: int, grads: Sequence[Tensor | None]) -> Parts | None:
        """A state's gradient from outside of the cell, in the layout of its parts."""
        if all(grad is None for grad in grads):
            return None
        return [
            (torch.zeros_like(part) if grad is None else grad).contiguous(memory_format=NHWC)
            for grad, part in zip(grads, self.states[state], strict=True)
        ]

    def _uses(self, slot: int) -> list[Use] | None:
        """What comes back to a family's candidates; None where nothing does."""
        uses = []
        for state, place in self.layout.uses[slot]:
            if state not in self.grads:
                return None
            factors = self.kept.sums[state - INPUTS].factors
            dropped = self.layout.terms[state][place].candidate.path is not None
            factor = factors[place] if dropped and factors is not None else None
            uses.append(Use(self.grads[state], factor))
        return uses

    def _reduce(self, state: int, grad: Tensor) -> None:
        """The sums over a state's gradient: of weights, and for its summands' gradients."""
        rows, places = self.cell.rows(grad.device)[state], self.cell.summed[state]
        if not places:
            return
        coefficients, _, factors = self.kept.sums[state - INPUTS]
        if len(places) < coefficients.shape[1]:
            coefficients = coefficients.index_select(1, rows.summed)
            factors = None if factors is None else factors.index_select(0, rows.summed)
        mean, rstd, a = coefficients.unbind()
        group = self.cell.group_of_sum(state)
        of_group = self.coefficients[group]
        affine = self.of_affine[group] if self.needs.parameters else None
        needs_weights = self.needs.weights and self.cell.has_weights(state)
        if not self.call.batch_statistics and not needs_weights and affine is None:
            of_group.table.index_copy_(0, rows.gradients[0], a)
            return
        zs = self.cell.summands(state, places, self.read, self.kept.results)
        s0, s1 = norm_sum_reduce(grad, zs, mean, rstd, factors)
        # Of this process alone: gradients of parameters are averaged over processes later.
        if needs_weights:
            of_weights = s1
            of_norms = self.kept.affine[group]
            if of_norms is not None:
                gamma, beta = of_norms.index_select(1, rows.sum_rows).unbind()
                of_weights = gamma * s1 + beta * s0
            self.of_weights.index_copy_(0, rows.sum_weights, of_weights.sum(1))
        if affine is not None:
            sums = torch.stack([s1, s0.expand_as(s1)])
            if self.cell.weights:
                sums = sums * self.kept.weights.index_select(0, rows.sum_weights)[:, None]
            affine.index_copy_(1, rows.sum_rows, sums)
        of_group.enter(rows.gradients, a, mean, rstd, s0, s1, grad)


def _only(parts: Parts | None) -> Tensor | None:
    """The gradient of a state of one part."""
    return None if parts is None else parts[0]
