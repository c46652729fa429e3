"""Weighted sums of batch-normalised tensors: a whole node of a cell at once.

With the biased statistics mean_kc, var_kc of input k over M = N * H * W values of channel c and
rstd = 1 / sqrt(var + eps) (0 and 1 for inputs left as they are):

    a_kc = w_k rstd_kc,   b_c = -sum_k a_kc mean_kc,   out = sum_k a_kc z_k + b_c

and with xhat_k = (z_k - mean_k) rstd_k, S0_c = sum g, S1_kc = sum g xhat_k:

    dw_k = sum_c S1_kc,   dz_k = a_kc (g - S0_c / M - xhat_k S1_kc / M)

where the last two terms are there for inputs whose statistics are their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from ssfnas.errors import RequestError
from ssfnas.ops.collectives import all_reduce_sum
from ssfnas.ops.layout import checked, in_one_layout, memory_format
from ssfnas.ops.norm_statistics import (
    group_statistics,
    local_statistics,
    only_normalised,
    reciprocal_deviations,
)
from ssfnas.ops.selection import (
    choose,
    primitive,
    requested,
    wants_reference,
    without_autocast,
)

_OP = "mixed_norm_sum"
Stats = tuple[Tensor, Tensor]
Normalised = tuple[Tensor, Tensor, Tensor, Tensor]


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
) -> Tensor | Normalised:
    """The definition of :func:`mixed_norm_sum`, differentiable any number of times."""
    zs, weights, normalize = _checked(zs, weights, normalize, stats, training, group)
    if stats is not None and training and not _carries_gradient(stats):
        # Their values are those of the inputs: computed from them, they are differentiated.
        stats = None
    dtype, first = weights.dtype, zs[0]
    shape = (1, -1, *[1] * (first.dim() - 2))
    axes = [axis for axis in range(first.dim()) if axis != 1]
    count = torch.full((), _values(first), dtype=dtype, device=first.device)
    if group is not None and training:
        count = all_reduce_sum(count, group)
        _check_count(count, normalize)
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
                sums = wide.sum(axes)
                mean = (sums if group is None else all_reduce_sum(sums, group)) / count.clamp_min(1)
                squares = (wide - mean.view(shape)).square().sum(axes)
                var = (
                    squares if group is None else all_reduce_sum(squares, group)
                ) / count.clamp_min(1)
            normalised = (wide - mean.view(shape)) / (var.view(shape) + eps).sqrt()
            total = total + weight * normalised
            rows.append((mean, var))
        out = total.to(first.dtype)
    if not return_stats:
        return out
    means, variances = (torch.stack(row).detach() for row in zip(*rows, strict=True))
    return out, means, variances, count


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
) -> Tensor | Normalised:
    """sum_k w_k BN(z_k), BN being batch normalisation without weights of its own.

    Args:
        zs: K tensors [N, C, ...] of one shape, dtype and device; float16, bfloat16, float32 or
            float64. Any layouts: the others are brought to that of the first.
        weights: [K], any floating dtype; computed with in float32 (float64 for float64 tensors).
        normalize: which inputs are normalised, K flags; the others are summed as they are (skip
            connections). None: all.
        stats: (mean, biased variance), each [K, C], where whoever made the inputs knows them. Rows
            of inputs that are not normalised are not read. In training they have to be those of
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
        whole group, 0 and 1 for inputs that are not normalised, without gradient; and how many
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
        through = _CONSTANT
    else:
        through = _GIVEN if stats is not None and _carries_gradient(stats) else _OWN
    if torch.compiler.is_compiling() and group is None:
        result = _forward_op(zs, weights, mean, var, normalize, through, eps, requested())
        count = weights.new_full((), _values(zs[0]))
    else:
        plan = _Plan(
            choose(_OP, zs, requested()), normalize, through, eps, group if training else None
        )
        *result, count = _MixedNormSum.apply(plan, weights, mean, var, *zs)
    if not return_stats:
        out: Tensor = result[0]
        return out
    return result[0], result[1], result[2], count


# What the gradient of the statistics is: none, one of the inputs, or one of its own.
_CONSTANT, _OWN, _GIVEN = "constant", "own", "given"


class _Plan(NamedTuple):
    """How a normalised sum is computed, besides its tensors."""

    name: str
    normalize: tuple[bool, ...]
    through: str
    eps: float
    group: dist.ProcessGroup | None


class _MixedNormSum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, plan: _Plan, weights: Tensor, mean: Tensor | None, var: Tensor | None, *zs: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        inputs = in_one_layout(zs)
        out, mean, var, rstd, count = _forward(plan, inputs, weights, mean, var)
        ctx.plan = plan
        ctx.save_for_backward(weights, mean, rstd, count, *inputs)
        # Given statistics are returned as copies: outputs must not be inputs.
        returned = (mean.clone(), var.clone())
        ctx.mark_non_differentiable(*returned, count)
        return out, *returned, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        weights, mean, rstd, count, *zs = ctx.saved_tensors
        needs = ctx.needs_input_grad
        dzs, dweights, dmean, dvar = _backward(
            ctx.plan, grad, zs, weights, mean, rstd, count, needs[4:], needs[1]
        )
        return (
            None,
            dweights,
            dmean if needs[2] else None,
            dvar if needs[3] else None,
            *dzs,
        )


def _forward(
    plan: _Plan, zs: Sequence[Tensor], weights: Tensor, mean: Tensor | None, var: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """out, mean, var, rstd [K, C] and the number of values of a channel."""
    name, normalize, _, eps, group = plan
    values = _values(zs[0])
    count = weights.new_full((), values)
    with without_autocast(zs[0]):
        if mean is None or var is None:
            mean, var = local_statistics(name, zs, normalize, weights.dtype)
        else:
            mean, var = only_normalised(mean, var, normalize)
        if group is not None:
            mean, var, count = group_statistics(mean, var, values, normalize, group)
            if values <= 1:
                _check_count(count, normalize)
        rstd = reciprocal_deviations(var, normalize, eps)
        a = weights[:, None] * rstd
        out = primitive(name, "norm_sum_forward")(zs, a, -(a * mean).sum(0))
    return out, mean, var, rstd, count


def _backward(
    plan: _Plan,
    grad: Tensor,
    zs: Sequence[Tensor],
    weights: Tensor,
    mean: Tensor,
    rstd: Tensor,
    count: Tensor,
    needs_z: Sequence[bool],
    needs_weights: bool,
) -> tuple[list[Tensor | None], Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of the inputs, the weights, and given statistics."""
    name, normalize, through, _, group = plan
    grad = grad.contiguous(memory_format=memory_format(zs[0]))
    dweights = dmean = dvar = None
    with without_autocast(grad):
        a = weights[:, None] * rstd
        q = torch.zeros_like(a)
        r = torch.zeros_like(a)
        own = through == _OWN and any(
            needed and normalized for needed, normalized in zip(needs_z, normalize, strict=True)
        )
        # Every process of a group has to take part in the sums, whatever it needs itself.
        own = own or (through == _OWN and group is not None and any(normalize))
        if needs_weights or own or through == _GIVEN:
            s0, s1 = primitive(name, "norm_sum_reduce")(grad, zs, mean, rstd)
            if needs_weights:
                # Of this process alone: gradients of weights are averaged over processes later.
                dweights = s1.sum(1)
            if through == _GIVEN:
                dmean = -a * s0
                dvar = -0.5 * a * rstd * s1
                for k, normalized in enumerate(normalize):
                    if not normalized:
                        dmean[k].zero_()
                        dvar[k].zero_()
            if own:
                if group is not None:
                    sums = torch.cat([s0[None], s1])
                    dist.all_reduce(sums, group=group)
                    s0, s1 = sums[0], sums[1:]
                q = -a * rstd * s1 / count
                r = -a * s0 / count - q * mean
                for k, normalized in enumerate(normalize):
                    if not normalized:
                        q[k].zero_()
                        r[k].zero_()
        if not any(needs_z):
            return [None] * len(zs), dweights, dmean, dvar
        dzs = primitive(name, "norm_sum_apply")(grad, zs, a, q, r, needs_z)
    return dzs, dweights, dmean, dvar


def _checked(
    zs: Sequence[Tensor],
    weights: Tensor,
    normalize: Sequence[bool] | None,
    stats: Stats | None,
    training: bool,
    group: dist.ProcessGroup | None,
) -> tuple[list[Tensor], Tensor, tuple[bool, ...]]:
    zs, weights = checked(_OP, zs, weights)
    first = zs[0]
    if first.dim() < 2:
        raise RequestError(
            f"{_OP}: tensors have the shape {list(first.shape)}: [N, C, ...] is meant"
        )
    flags = (True,) * len(zs) if normalize is None else tuple(bool(flag) for flag in normalize)
    if len(flags) != len(zs):
        raise RequestError(f"{_OP}: normalize has {len(flags)} flags for {len(zs)} tensors")
    if stats is None:
        if not training and any(flags):
            raise RequestError(
                f"{_OP}: training=False normalises by constants: give them as stats=(mean, var)"
            )
    else:
        wanted = (len(zs), first.shape[1])
        if len(stats) != 2 or any(tuple(values.shape) != wanted for values in stats):
            shapes = " and ".join(str(list(values.shape)) for values in stats)
            raise RequestError(
                f"{_OP}: stats have the shapes {shapes}: (mean, var) of {wanted[0]} tensors with "
                f"{wanted[1]} channels are each {list(wanted)}"
            )
        if group is not None and training and _carries_gradient(stats):
            raise RequestError(
                f"{_OP}: stats that require gradients cannot be shared in a group: detach them, "
                "and the gradient goes through the tensors themselves"
            )
    if training and any(flags) and group is None and _values(first) == 1:
        raise RequestError(_single_value(first.shape))
    return zs, weights, flags


def _check_count(count: Tensor, normalize: Sequence[bool]) -> None:
    if any(normalize) and count.item() <= 1:
        raise RequestError(_single_value(None))


def _single_value(shape: torch.Size | None) -> str:
    where = "over all processes" if shape is None else f"in tensors of the shape {list(shape)}"
    return (
        f"{_OP}: one value a channel {where}: in training a variance needs at least 2; enlarge the "
        "batch, or pass training=False and stats"
    )


def _values(z: Tensor) -> int:
    """How many values of one channel there are (M)."""
    count = z.shape[0]
    for size in z.shape[2:]:
        count *= size
    return count


def _carries_gradient(stats: Stats) -> bool:
    return any(values.requires_grad for values in stats)


@torch.library.custom_op(
    "ssfnas::mixed_norm_sum",
    mutates_args=(),
    schema="(Tensor[] zs, Tensor weights, Tensor? mean, Tensor? var, bool[] normalize, "
    "str through, float eps, str backend) -> (Tensor, Tensor, Tensor, Tensor)",
)
def _forward_op(
    zs: Sequence[Tensor],
    weights: Tensor,
    mean: Tensor | None,
    var: Tensor | None,
    normalize: Sequence[bool],
    through: str,
    eps: float,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    zs = in_one_layout(zs)
    plan = _Plan(choose(_OP, zs, backend), tuple(normalize), through, eps, None)
    out, new_mean, new_var, rstd, _ = _forward(plan, zs, weights, mean, var)
    # What an op returns must not be what it was given.
    new_mean = new_mean.clone() if new_mean is mean else new_mean
    new_var = new_var.clone() if new_var is var else new_var
    return out, new_mean, new_var, rstd


@_forward_op.register_fake
def _(
    zs: Sequence[Tensor],
    weights: Tensor,
    mean: Tensor | None,
    var: Tensor | None,
    normalize: Sequence[bool],
    through: str,
    eps: float,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    out = torch.empty_like(zs[0], memory_format=memory_format(zs[0]))
    rows = [weights.new_empty(len(zs), zs[0].shape[1]) for _ in range(3)]
    return out, rows[0], rows[1], rows[2]


@torch.library.custom_op(
    "ssfnas::mixed_norm_sum_backward",
    mutates_args=(),
    schema="(Tensor grad, Tensor[] zs, Tensor weights, Tensor mean, Tensor rstd, "
    "bool[] normalize, str through, bool[] needs_z, bool needs_weights, str backend) -> "
    "(Tensor[], Tensor, Tensor, Tensor)",
)
def _backward_op(
    grad: Tensor,
    zs: Sequence[Tensor],
    weights: Tensor,
    mean: Tensor,
    rstd: Tensor,
    normalize: Sequence[bool],
    through: str,
    needs_z: Sequence[bool],
    needs_weights: bool,
    backend: str,
) -> tuple[list[Tensor], Tensor, Tensor, Tensor]:
    zs = in_one_layout(zs)
    plan = _Plan(choose(_OP, zs, backend), tuple(normalize), through, 0.0, None)
    count = weights.new_full((), _values(zs[0]))
    dzs, *rest = _backward(plan, grad, zs, weights, mean, rstd, count, needs_z, needs_weights)
    # An op cannot return None: what nobody wants is empty.
    dweights, dmean, dvar = (weights.new_empty(0) if value is None else value for value in rest)
    return [grad.new_empty(0) if dz is None else dz for dz in dzs], dweights, dmean, dvar


@_backward_op.register_fake
def _(
    grad: Tensor,
    zs: Sequence[Tensor],
    weights: Tensor,
    mean: Tensor,
    rstd: Tensor,
    normalize: Sequence[bool],
    through: str,
    needs_z: Sequence[bool],
    needs_weights: bool,
    backend: str,
) -> tuple[list[Tensor], Tensor, Tensor, Tensor]:
    order = memory_format(zs[0])
    dzs = [
        torch.empty_like(zs[0], memory_format=order) if needed else grad.new_empty(0)
        for needed in needs_z
    ]
    given = mean.shape if through == _GIVEN else (0,)
    return (
        dzs,
        weights.new_empty(len(zs) if needs_weights else 0),
        weights.new_empty(given),
        weights.new_empty(given),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    zs, weights, _, _, ctx.normalize, ctx.through, _, ctx.backend = inputs
    _, mean, var, rstd = output
    ctx.save_for_backward(weights, mean, rstd, *zs)
    ctx.mark_non_differentiable(mean, var, rstd)


def _op_backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Any, ...]:
    weights, mean, rstd, *zs = ctx.saved_tensors
    needs_z, needs_weights, needs_mean, needs_var, *_rest = ctx.needs_input_grad
    if isinstance(needs_z, bool):
        needs_z = [needs_z] * len(zs)
    dzs, dweights, dmean, dvar = _backward_op(
        grad,
        zs,
        weights,
        mean,
        rstd,
        ctx.normalize,
        ctx.through,
        list(needs_z),
        needs_weights,
        ctx.backend,
    )
    return (
        [dz if needed else None for dz, needed in zip(dzs, needs_z, strict=True)],
        dweights if needs_weights else None,
        dmean if needs_mean else None,
        dvar if needs_var else None,
        None,
        None,
        None,
        None,
    )


_forward_op.register_autograd(_op_backward, setup_context=_setup_context)
