"""All candidates that leave one state of a search cell: their results, and their gradients.

Formulas: :mod:`ssfnas.ops.torch_stencils` and :mod:`ssfnas.ops.mixed_norm_sum`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ssfnas.ops.norm_statistics import group_statistics
from ssfnas.spaces.cell_layout import Source, Term
from ssfnas.spaces.normalization import BatchNorm2d

Primitives = Callable[[str], Callable[..., Any]]
Module = tuple[int, int]


class Update(NamedTuple):
    """Batch statistics that BatchNorms have to fold into their running ones.

    Attributes:
        norms: for each of R rows, the BatchNorms that it is for.
        mean, var: [R, C], biased.
        values: that a channel has, over all processes.
    """

    norms: list[list[BatchNorm2d]]
    mean: Tensor
    var: Tensor
    values: int | Tensor


@dataclass
class Call:
    """How one forward pass is made, and what it leaves for the modules.

    Attributes:
        batch_statistics: normalise by the batch's own statistics, not by the running ones.
        eps: of every BatchNorm.
        group: the processes whose batches make one batch.
        updates: filled by the forward pass.
    """

    batch_statistics: bool
    eps: float
    group: dist.ProcessGroup | None
    updates: list[Update] = field(default_factory=list)


class Filters(NamedTuple):
    """Depthwise [C, 1, k, k] and 1x1 filters [C, C, 1, 1] of a source's first and second units."""

    depthwise: list[Tensor]
    pointwise: list[Tensor]
    depthwise2: list[Tensor]
    pointwise2: list[Tensor]


class Results(NamedTuple):
    """What a source leaves for its nodes and for the backward pass.

    Attributes:
        x: the state [N, C, H, W].
        first, second: results of the units, not normalised.
        pools: by ``"max"`` and ``"avg"``.
        mean, rstd: [first + second + 2, C] of the first units, the second ones, and both pools.
        scale, shift: what the second units' inputs are normalised by, [second, C].
    """

    x: Tensor
    first: list[Tensor]
    second: list[Tensor]
    pools: dict[str, Tensor]
    mean: Tensor
    rstd: Tensor
    scale: Tensor | None
    shift: Tensor | None

    def find(self, term: Term, modules: dict[Module, tuple[Tensor, Tensor]]) -> Tensor:
        """The summand that a term names."""
        if term.kind == "first":
            return self.first[term.position]
        if term.kind == "second":
            return self.second[term.position]
        if term.kind == "skip":
            return self.x
        if term.kind == "module":
            return modules[term.place][1].detach()
        return self.pools[term.kind]


def run_modules(modules: dict[Module, nn.Module], x: Tensor) -> dict[Module, tuple[Tensor, Tensor]]:
    """Candidates that are modules, each with a graph of its own: place -> (its input, its output).

    They normalise themselves, and their graphs are differentiated when the cell's gradient is.
    """
    results = {}
    for place, module in modules.items():
        with torch.enable_grad():
            leaf = x.detach().requires_grad_(x.is_floating_point())
            results[place] = leaf, module(leaf).to(x.dtype)
    return results


def forward(
    call: Call,
    primitives: Primitives,
    source: Source,
    inputs: Tensor,
    x: Tensor,
    filters: Filters,
) -> tuple[Results, int | Tensor]:
    """Results of all units and pools, and how many values a channel of them has.

    Args:
        call: of the whole pass.
        primitives: functions of ``candidate_stencils`` by name.
        source: what leaves the state.
        inputs: ``source.inputs`` as a tensor.
        x: the state [N, C, H, W].
        filters: weights of the units.
    """
    first: list[Tensor] = []
    second: list[Tensor] = []
    pools: dict[str, Tensor] = {}
    scale = shift = None
    height, width = (-(-size // source.stride) for size in x.shape[-2:])
    statistics = _Statistics(call, x.shape[0] * height * width)
    if source.first:
        first, mean, var = primitives("separable_forward")(
            [x],
            filters.depthwise,
            filters.pointwise,
            stride=source.stride,
            dilations=[unit.dilation for unit in source.first],
        )
        mean, rstd = statistics.enter([[unit.norm] for unit in source.first], mean, var)
        if source.second:
            scale = rstd.index_select(0, inputs)
            shift = -mean.index_select(0, inputs) * scale
    if source.second:
        second, mean, var = primitives("separable_forward")(
            [first[g] for g in source.inputs],
            filters.depthwise2,
            filters.pointwise2,
            stride=1,
            dilations=[unit.dilation for unit in source.second],
            scale=scale,
            shift=shift,
        )
        statistics.enter([[unit.norm] for unit in source.second], mean, var)
    if source.pools:
        largest, average, mean, var = primitives("pools_forward")(x, source.stride)
        both = {"max": largest, "avg": average}
        pools = {kind: both[kind] for kind in source.pools}
        statistics.enter([source.pools.get(kind, []) for kind in both], mean, var)
    means, rstds = statistics.tables(x)
    return Results(x, first, second, pools, means, rstds, scale, shift), statistics.count


class Uses(NamedTuple):
    """The terms of one kind that a source gives to the nodes after it.

    Attributes:
        grads: for each term the gradient of its node.
        p, q, r: [terms, C]: a term's gradient is p grad + q term + r; ``q`` and ``r`` are None
            where statistics are constants.
    """

    grads: list[Tensor]
    p: Tensor
    q: Tensor | None
    r: Tensor | None


class Gradients(NamedTuple):
    """Of the state, of the units' filters, and of the modules' parameters."""

    x: Tensor | None
    filters: list[Tensor | None]
    parameters: list[Tensor | None]


def backward(
    call: Call,
    primitives: Primitives,
    norm_sum_forward: Callable[..., Tensor],
    source: Source,
    inputs: Tensor,
    order: Tensor,
    results: Results,
    modules: dict[Module, tuple[Tensor, Tensor]],
    filters: Filters,
    uses: dict[str, Uses],
    count: int | Tensor,
    *,
    into: Tensor | None,
    needs_weights: bool,
) -> Gradients:
    """Gradients of everything that :func:`forward` and :func:`run_modules` computed from a state.

    Args:
        call, primitives, source, inputs, filters: as in the forward pass.
        norm_sum_forward: a backend's primitive of that name.
        order: where the coefficients of each first unit are, among those of the units whose result
            is a term and then those of the second units' inputs.
        results: what the forward pass gave.
        modules: what the modules gave.
        uses: by kind of term.
        count: values a channel, over all processes.
        into: what the state's gradient is so far; is overwritten.
        needs_weights: whether gradients of filters and parameters are wanted.
    """
    x = results.x
    total = into
    if "skip" in uses:
        grads, p = uses["skip"].grads, uses["skip"].p
        if total is not None:
            grads, p = [*grads, total], torch.cat([p, torch.ones_like(p[:1])])
        total = norm_sum_forward(grads, p, torch.zeros_like(p[0]))
    parameters: list[Tensor | None] = []
    for number, (leaf, y) in enumerate(modules.values()):
        module = list(source.modules.values())[number]
        own = [weight for weight in module.parameters() if weight.requires_grad]
        dy = uses["module"].grads[number] * uses["module"].p[number].view(1, -1, 1, 1)
        wanted = [leaf, *own] if needs_weights else [leaf]
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
    if results.pools:
        d_pools = {
            kind: _pool_gradient(norm_sum_forward, uses[kind], results.pools[kind])
            for kind in results.pools
        }
        total = primitives("pools_backward")(
            x, d_pools.get("max"), d_pools.get("avg"), source.stride, total
        )
    if not source.first:
        return Gradients(total, [], parameters)
    grads, coefficients, filter_grads = _second_units(
        call, primitives, source, inputs, results, filters, uses, count, needs_weights
    )
    ordered_rows = [None if c is None else c.index_select(0, order) for c in coefficients]
    ordered = [grads[place] for place in places(source)]
    dxs, _, d_depthwise, d_pointwise = primitives("separable_backward")(
        [x],
        results.first,
        ordered,
        *ordered_rows,
        filters.depthwise,
        filters.pointwise,
        stride=source.stride,
        dilations=[unit.dilation for unit in source.first],
        needs_weights=needs_weights,
        into=total,
    )
    none = [None] * len(source.first)
    all_filters = [*(d_depthwise or none), *(d_pointwise or none), *filter_grads]
    return Gradients(dxs[0], all_filters, parameters)


def places(source: Source) -> list[int]:
    """Where each first unit is among those whose result is a term, and then the second's inputs."""
    with_term = [g for g, unit in enumerate(source.first) if unit.term is not None]
    place = {g: i for i, g in enumerate([*with_term, *source.inputs])}
    return [place[g] for g in range(len(source.first))]


def _pool_gradient(norm_sum_forward: Callable[..., Tensor], use: Uses, pooled: Tensor) -> Tensor:
    """sum over terms of p grad + q pooled + r."""
    if use.q is None or use.r is None:
        return norm_sum_forward(use.grads, use.p, torch.zeros_like(use.p[0]))
    a = torch.cat([use.p, use.q.sum(0, keepdim=True)])
    return norm_sum_forward([*use.grads, pooled], a, use.r.sum(0))


def _second_units(
    call: Call,
    primitives: Primitives,
    source: Source,
    inputs: Tensor,
    results: Results,
    filters: Filters,
    uses: dict[str, Uses],
    count: int | Tensor,
    needs_weights: bool,
) -> tuple[list[Tensor], list[Tensor | None], list[Tensor | None]]:
    """Gradients and coefficients of all first units' results, through the second units if any."""
    grads: list[Tensor] = []
    tables: list[list[Tensor | None]] = []
    if "first" in uses:
        grads += uses["first"].grads
        tables.append([uses["first"].p, uses["first"].q, uses["first"].r])
    filter_grads: list[Tensor | None] = []
    if source.second:
        use = uses["second"]
        dus, sums, d_depthwise, d_pointwise = primitives("separable_backward")(
            [results.first[g] for g in source.inputs],
            results.second,
            use.grads,
            use.p,
            use.q,
            use.r,
            filters.depthwise2,
            filters.pointwise2,
            stride=1,
            dilations=[unit.dilation for unit in source.second],
            scale=results.scale,
            shift=results.shift,
            needs_weights=needs_weights,
        )
        none = [None] * len(source.second)
        filter_grads = [*(d_depthwise or none), *(d_pointwise or none)]
        grads += dus
        rstd = results.rstd.index_select(0, inputs)
        if call.batch_statistics:
            mean = results.mean.index_select(0, inputs)
            s0, s1 = sums
            tables.append(list(normalisation_gradient(call, rstd, mean, rstd, s0, s1, count)))
        else:
            tables.append([rstd, None, None])
    joined = [
        None if any(part is None for part in parts) else torch.cat(parts)  # type: ignore[arg-type]
        for parts in zip(*tables, strict=True)
    ]
    return grads, joined, filter_grads


def normalisation_gradient(
    call: Call,
    a: Tensor,
    mean: Tensor,
    rstd: Tensor,
    s0: Tensor,
    s1: Tensor,
    count: int | Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """p, q, r of dz = p g + q z + r for out = a (z - mean) + ..., with g's sums over a batch.

    Args:
        call: whose group the sums are added up over.
        a, mean, rstd: [R, C].
        s0: sum g, [R, C] or [C]; s1: sum g (z - mean) rstd, [R, C].
        count: values a channel.
    """
    if call.group is not None:
        sums = torch.cat([s0.reshape(-1, s0.shape[-1]), s1])
        dist.all_reduce(sums, group=call.group)
        s0, s1 = sums[: -len(s1)].view_as(s0), sums[-len(s1) :]
    slope = a * rstd * s1 / count
    return a, -slope, slope * mean - a * s0 / count


class _Statistics:
    """Collects a source's statistics, and what the modules will have to fold in."""

    def __init__(self, call: Call, values: int) -> None:
        self.call = call
        self.values = values
        self.count: int | Tensor = values
        self.means: list[Tensor] = []
        self.rstds: list[Tensor] = []
        if call.batch_statistics and call.group is None and values <= 1:
            raise ValueError(
                "Expected more than 1 value per channel when training: a cell of the supernet has "
                f"{values}; enlarge the batch or the images"
            )

    def enter(
        self, norms: list[list[BatchNorm2d]], mean: Tensor, var: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Take a batch's statistics [R, C], or the running ones; returns mean and rstd."""
        if self.call.batch_statistics:
            if self.call.group is not None:
                mean, var, self.count = group_statistics(
                    mean, var, self.values, [True] * len(mean), self.call.group
                )
            self.call.updates.append(Update(norms, mean, var, self.count))
        else:
            mean, var = _running(norms, mean, var)
        rstd = (var + self.call.eps).rsqrt()
        self.means.append(mean)
        self.rstds.append(rstd)
        return mean, rstd

    def tables(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Everything entered, one below the other."""
        if not self.means:
            empty = x.new_empty(0, x.shape[1])
            return empty, empty
        return torch.cat(self.means), torch.cat(self.rstds)


def _running(norms: list[list[BatchNorm2d]], mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
    """The BatchNorms' running statistics [R, C], for rows without a BatchNorm what was computed.

    All BatchNorms of a row have seen the same batches, so the first speaks for them.
    """
    means, variances = [], []
    for row, modules in enumerate(norms):
        if modules and modules[0].running_mean is not None:
            assert modules[0].running_var is not None
            means.append(modules[0].running_mean.to(mean.dtype))
            variances.append(modules[0].running_var.to(var.dtype))
        else:
            means.append(mean[row])
            variances.append(var[row])
    return torch.stack(means), torch.stack(variances)
