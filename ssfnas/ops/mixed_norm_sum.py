"""Weighted sums of batch-normalized tensors: a whole node of a cell at once.

Formulas, of the sum and of its gradients: :mod:`ssfnas.ops.norm_coefficients`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, overload

import torch
import torch.distributed as dist
from torch import Tensor

from ssfnas.errors import RequestError
from ssfnas.ops.autocast import without_autocast
from ssfnas.ops.collectives import all_reduce_sum
from ssfnas.ops.mixed_sum import checked
from ssfnas.ops.norm_sum_autograd import (
    CONSTANT,
    GIVEN,
    OP,
    OWN,
    MixedNormSum,
    Plan,
    check_count,
    mixed_norm_sum_op,
    single_value,
    values_of,
)
from ssfnas.ops.selection import choose, requested, wants_reference
from ssfnas.ops.torch_sums import per_channel

Stats = tuple[Tensor, Tensor]
Normalized = tuple[Tensor, Tensor, Tensor, Tensor]


def mixed_norm_sum_reference(
    zs: Sequence[Tensor],
    weights: Tensor,
    *,
    normalize: Sequence[bool] | None = None,
    stats: Stats | None = None,
    training: bool = True,
    eps: float = 1e-5,
    group: dist.ProcessGroup | None = None,
    return_stats: bool = False,
) -> Tensor | Normalized:
    """The definition of :func:`mixed_norm_sum`, differentiable any number of times."""
    zs, weights, normalize = _checked(zs, weights, normalize, stats, training, group)
    if stats is not None and training and not _carries_gradient(stats):
        # Their values are those of the inputs: computed from them, they are differentiated.
        stats = None
    elif stats is not None and not training:
        stats = (stats[0].detach(), stats[1].detach())
    dtype, first = weights.dtype, zs[0]
    axes = [axis for axis in range(first.dim()) if axis != 1]
    count = torch.full((), values_of(first), dtype=dtype, device=first.device)
    if group is not None and training:
        count = all_reduce_sum(count, group)
        check_count(count, normalize)

    def mean_of(values: Tensor) -> Tensor:
        sums = values.sum(axes)
        return (sums if group is None else all_reduce_sum(sums, group)) / count.clamp_min(1)

    total = torch.zeros((), dtype=dtype, device=first.device)
    rows = []
    with without_autocast(first):
        for k, (z, weight) in enumerate(zip(zs, weights, strict=True)):
            wide = z.to(dtype)
            if not normalize[k]:
                zero = torch.zeros(first.shape[1], dtype=dtype, device=first.device)
                rows.append((zero, zero + 1))
                total = total + weight * wide
                continue
            if stats is not None:
                mean, var = (rows_of[k].to(dtype) for rows_of in stats)
            else:
                mean = mean_of(wide)
                var = mean_of((wide - per_channel(mean, wide)).square())
            deviations = wide - per_channel(mean, wide)
            normalized = deviations / (per_channel(var, wide) + eps).sqrt()
            total = total + weight * normalized
            rows.append((mean, var))
        out = total.to(first.dtype)
    if not return_stats:
        return out
    means, variances = (torch.stack(row).detach() for row in zip(*rows, strict=True))
    return out, means, variances, count


@overload
def mixed_norm_sum(
    zs: Sequence[Tensor],
    weights: Tensor,
    *,
    normalize: Sequence[bool] | None = ...,
    stats: Stats | None = ...,
    training: bool = ...,
    eps: float = ...,
    group: dist.ProcessGroup | None = ...,
    return_stats: Literal[False] = ...,
) -> Tensor: ...


@overload
def mixed_norm_sum(
    zs: Sequence[Tensor],
    weights: Tensor,
    *,
    normalize: Sequence[bool] | None = ...,
    stats: Stats | None = ...,
    training: bool = ...,
    eps: float = ...,
    group: dist.ProcessGroup | None = ...,
    return_stats: Literal[True],
) -> Normalized: ...


def mixed_norm_sum(
    zs: Sequence[Tensor],
    weights: Tensor,
    *,
    normalize: Sequence[bool] | None = None,
    stats: Stats | None = None,
    training: bool = True,
    eps: float = 1e-5,
    group: dist.ProcessGroup | None = None,
    return_stats: bool = False,
) -> Tensor | Normalized:
    """sum_k w_k BN(z_k), BN being batch normalization without weights of its own.

    Args:
        zs: K tensors [N, C, ...] of one shape, dtype and device; float16, bfloat16, float32 or
            float64. Any layouts: the others are brought to that of the first.
        weights: [K], any floating dtype; computed with in float32 (float64 for float64 tensors).
        normalize: which inputs are normalized, K flags; the others are summed as they are (skip
            connections). None: all.
        stats: (mean, biased variance), each [K, C], where whoever made the inputs knows them. Rows
            of inputs that are not normalized are not read. In training they have to be those of
            ``zs`` (on this process, if there is a group), and the gradient takes account of that:
            through the statistics if they require gradients, else through ``zs``. Otherwise they
            are constants (running statistics).
        training: whether statistics are those of this batch; if not, ``stats`` have to be given.
        eps: added to each variance.
        group: processes whose batches are one batch, in training; gradients are right once they
            are averaged over the processes. Not together with statistics that require gradients.
        return_stats: return the statistics as well, for running averages.

    Returns:
        The sum [N, C, ...] in the dtype and layout of ``zs[0]``. With ``return_stats``
        (sum, mean, var, count): mean and biased variance [K, C] in float32 (float64), over the
        whole group, 0 and 1 for inputs that are not normalized, without gradient; and how many
        values of a channel they are of, a scalar of the same dtype. Differentiable once; the
        reference is differentiable any number of times.

    Raises:
        RequestError: tensors that :func:`ssfnas.ops.mixed_sum` refuses, fewer than two dimensions,
            flags or statistics that do not fit, or a single value a channel in training.
        BackendError: a backend was asked for by name and cannot take these tensors.
    """
    if wants_reference():
        return mixed_norm_sum_reference(
            zs,
            weights,
            normalize=normalize,
            stats=stats,
            training=training,
            eps=eps,
            group=group,
            return_stats=return_stats,
        )
    zs, weights, normalize = _checked(zs, weights, normalize, stats, training, group)
    if stats is None:
        mean, var = None, None
    else:
        mean, var = (values.to(weights.dtype) for values in stats)
    if not training:
        through = CONSTANT
    else:
        through = GIVEN if stats is not None and _carries_gradient(stats) else OWN
    if torch.compiler.is_compiling() and group is None:
        result = mixed_norm_sum_op(zs, weights, mean, var, normalize, through, eps, requested())
        count = weights.new_full((), values_of(zs[0]))
    else:
        plan = Plan(
            choose(OP, zs, requested()), normalize, through, eps, group if training else None
        )
        *result, count = _eager(plan, weights, mean, var, *zs)
    if not return_stats:
        out: Tensor = result[0]
        return out
    return result[0], result[1], result[2], count


@torch.compiler.disable
def _eager(plan: Plan, *tensors: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The autograd function; compiled code breaks here where processes have to communicate."""
    result: tuple[Tensor, Tensor, Tensor, Tensor] = MixedNormSum.apply(plan, *tensors)
    return result


def _checked(
    zs: Sequence[Tensor],
    weights: Tensor,
    normalize: Sequence[bool] | None,
    stats: Stats | None,
    training: bool,
    group: dist.ProcessGroup | None,
) -> tuple[list[Tensor], Tensor, tuple[bool, ...]]:
    zs, weights = checked(OP, zs, weights)
    first = zs[0]
    if first.dim() < 2:
        raise RequestError(
            f"{OP}: tensors have the shape {list(first.shape)}: [N, C, ...] is meant"
        )
    flags = (True,) * len(zs) if normalize is None else tuple(bool(flag) for flag in normalize)
    if len(flags) != len(zs):
        raise RequestError(f"{OP}: normalize has {len(flags)} flags for {len(zs)} tensors")
    if stats is None:
        if not training and any(flags):
            raise RequestError(
                f"{OP}: training=False normalizes by constants: give them as stats=(mean, var)"
            )
    else:
        wanted = (len(zs), first.shape[1])
        if len(stats) != 2 or any(tuple(values.shape) != wanted for values in stats):
            shapes = " and ".join(str(list(values.shape)) for values in stats)
            raise RequestError(
                f"{OP}: stats have the shapes {shapes}: (mean, var) of {wanted[0]} tensors with "
                f"{wanted[1]} channels are each {list(wanted)}"
            )
        if group is not None and training and _carries_gradient(stats):
            raise RequestError(
                f"{OP}: stats that require gradients cannot be shared in a group: detach them, "
                "and the gradient goes through the tensors themselves"
            )
    if training and any(flags) and group is None and values_of(first) == 1:
        raise RequestError(single_value(first.shape))
    return zs, weights, flags


def _carries_gradient(stats: Stats) -> bool:
    return any(values.requires_grad for values in stats)
