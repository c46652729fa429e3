"""Collective operations; those with gradients are differentiable any number of times.

The convention of the whole package: each process backpropagates its own loss, and gradients are
*averaged* over the processes afterward, which makes them those of the losses' mean. So a gradient
here is the sum of what every process has for a value.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class SharedGroup:
    """Holds a process group in a module: copies of the module share it, as it cannot be copied."""

    def __init__(self, group: dist.ProcessGroup | None) -> None:
        self.group = group

    def __deepcopy__(self, memo: dict[int, Any]) -> SharedGroup:
        return self


class Grouped:
    """A module that computes over the batches of several processes in training."""

    _group = SharedGroup(None)

    @property
    def group(self) -> dist.ProcessGroup | None:
        """The processes whose batches make one batch; None: this one alone."""
        return self._group.group

    @group.setter
    def group(self, group: dist.ProcessGroup | None) -> None:
        self._group = SharedGroup(group)


class _SumOverProcesses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return all_reduce_sum(gradients[0], ctx.group), None


@torch.compiler.disable
def all_reduce_sum(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Sum of ``x`` over the processes of the group, on each of them."""
    result: Tensor = _SumOverProcesses.apply(x, group)
    return result


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup, replicated: bool) -> Tensor:
        ctx.group, ctx.replicated = group, replicated
        size, rank = dist.get_world_size(group), dist.get_rank(group)
        rows = torch.tensor([len(x)], device=x.device)
        counts = [torch.empty_like(rows) for _ in range(size)]
        dist.all_gather(counts, rows, group=group)
        lengths = [int(count) for count in counts]
        ctx.start, ctx.rows = sum(lengths[:rank]), len(x)
        padded = x.new_zeros(max(lengths), *x.shape[1:])
        padded[: len(x)] = x
        parts = [torch.empty_like(padded) for _ in range(size)]
        dist.all_gather(parts, padded, group=group)
        return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        own = slice(ctx.start, ctx.start + ctx.rows)
        if ctx.replicated:
            return gradients[0][own] * dist.get_world_size(ctx.group), None, None
        return all_reduce_sum(gradients[0], ctx.group)[own], None, None


@torch.compiler.disable
def gather_rows(x: Tensor, group: dist.ProcessGroup, *, replicated: bool = False) -> Tensor:
    """Rows of all processes, in the order of their ranks; numbers of rows may differ.

    Args:
        x: [n, ...]; sizes but the first, and dtypes, are those of every process.
        group: the processes.
        replicated: every process computes the same from the result, and weighs it alike in its
            loss. Then the backward pass communicates nothing: the sum of gradients over processes
            is that of this one times their number.
    """
    result: Tensor = _GatherRows.apply(x, group, replicated)
    return result


def merged_moments(
    mean: Tensor, squares: Tensor, count: int, group: dist.ProcessGroup
) -> tuple[Tensor, Tensor, Tensor]:
    """Merge means and sums of squared deviations of ``count`` values each, over the processes.

    By the formula of Chan, Golub and LeVeque (1983), in the order of ranks, so that every process
    holds the same bits:

        mean = sum n_i mean_i / n,   var = sum (squares_i + n_i (mean_i - mean)^2) / n

    Returns:
        mean, biased variance, and n = sum n_i, a scalar.
    """
    local = torch.cat([mean.new_full((1,), count), mean.flatten(), squares.flatten()])
    parts = [torch.empty_like(local) for _ in range(dist.get_world_size(group))]
    dist.all_gather(parts, local, group=group)
    counts, means, spreads = torch.stack(parts).split([1, mean.numel(), mean.numel()], dim=1)
    total = counts.sum()
    merged = (counts * means).sum(0) / total
    var = (spreads + counts * (means - merged).square()).sum(0) / total
    return merged.view_as(mean), var.view_as(mean), total
