"""Statistics of a normalized sum: of this process' tensors, or of those of a whole group."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from ssfnas.ops.selection import primitive


def local_statistics(
    name: str, zs: Sequence[Tensor], normalize: Sequence[bool], dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Mean and biased variance [K, C] by backend ``name``; 0 and 1 for inputs left as they are."""
    if zs[0].numel() == 0:
        # Of nothing: they change no merged statistics, and hold no NaN.
        mean = torch.zeros(len(zs), zs[0].shape[1], dtype=dtype, device=zs[0].device)
        return only_normalized(mean, torch.zeros_like(mean), normalize)
    mean, var = primitive(name, "norm_statistics")(zs, normalize)
    return mean, var


def only_normalized(mean: Tensor, var: Tensor, normalize: Sequence[bool]) -> tuple[Tensor, Tensor]:
    """The statistics [K, C] with rows of 0 and 1 for inputs left as they are."""
    if all(normalize):
        return mean, var
    mean, var = mean.clone(), var.clone()
    for k, normalized in enumerate(normalize):
        if not normalized:
            # Filled row by row: a mask would be copied from the host, which graph capture forbids.
            mean[k].zero_()
            var[k].fill_(1)
    return mean, var


def group_statistics(
    mean: Tensor, var: Tensor, count: int, normalize: Sequence[bool], group: dist.ProcessGroup
) -> tuple[Tensor, Tensor, Tensor]:
    """Merge every process' statistics [K, C] of ``count`` values a channel.

    Returns:
        mean, var [K, C], and the number of values, a scalar.
    """
    mean, var, total = merged_moments(mean, var * count, count, group)
    return *only_normalized(mean, var, normalize), total


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


def reciprocal_deviations(var: Tensor, normalize: Sequence[bool], eps: float) -> Tensor:
    """1 / sqrt(var + eps) [K, C], and exactly 1 for inputs left as they are."""
    rstd = (var + eps).rsqrt()
    for k, normalized in enumerate(normalize):
        if not normalized:
            rstd[k].fill_(1)
    return rstd
