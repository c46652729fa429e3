"""Collective operations with gradients.

The convention of the whole package: each process backpropagates its own loss, and gradients are
*averaged* over the processes afterwards.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class _SumOverProcesses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=ctx.group)
        return total, None


def all_reduce_sum(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Sum of ``x`` over the processes, whose gradient is the sum of theirs."""
    result: Tensor = _SumOverProcesses.apply(x, group)
    return result


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        size, rank = dist.get_world_size(group), dist.get_rank(group)
        rows = torch.tensor([len(x)], device=x.device)
        counts = [torch.zeros_like(rows) for _ in range(size)]
        dist.all_gather(counts, rows, group=group)
        lengths = [int(count) for count in counts]
        ctx.start, ctx.rows = sum(lengths[:rank]), len(x)
        most = max(lengths)
        padded = x.new_zeros(most, *x.shape[1:])
        padded[: len(x)] = x
        parts = [torch.empty_like(padded) for _ in range(size)]
        dist.all_gather(parts, padded, group=group)
        return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=ctx.group)
        return total[ctx.start : ctx.start + ctx.rows], None


def gather_rows(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Rows of all processes, in the order of their ranks; numbers of rows may differ.

    The gradient of a row is the sum of what every process has for it.
    """
    result: Tensor = _GatherRows.apply(x, group)
    return result
