"""The autograd of :mod:`ssfnas.ops.mixed_norm_sum`: which passes are made, and what comes between.

Formulas: :mod:`ssfnas.ops.norm_coefficients`. A backend only makes the passes over tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from ssfnas.errors import RequestError
from ssfnas.kernels.layout import in_one_layout, memory_format
from ssfnas.ops.autocast import without_autocast
from ssfnas.ops.collectives import merged_moments
from ssfnas.ops.differentiable_once import differentiable_once
from ssfnas.ops.mixed_sum import fake_gradients
from ssfnas.ops.selection import choose, primitive

OP = "mixed_norm_sum"

# What the gradient of the statistics is: none, one of the inputs, or one of its own.
CONSTANT, OWN, GIVEN = "constant", "own", "given"


class Plan(NamedTuple):
    """How a normalized sum is computed, besides its tensors."""

    name: str
    normalize: tuple[bool, ...]
    through: str
    eps: float
    group: dist.ProcessGroup | None


class MixedNormSum(torch.autograd.Function):
    """(plan, weights, mean, var, *zs) -> (out, mean, var, count); statistics given, or None."""

    @staticmethod
    def forward(
        ctx: Any, plan: Plan, weights: Tensor, mean: Tensor | None, var: Tensor | None, *zs: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One pass for the statistics where they are not given, one for the sum."""
        inputs = in_one_layout(zs)
        out, mean, var, rstd, count = _forward(plan, inputs, weights, mean, var)
        ctx.plan = plan
        ctx.save_for_backward(weights, mean, rstd, count, *inputs)
        ctx.mark_non_differentiable(mean, var, count)
        return out, mean, var, count

    @staticmethod
    @differentiable_once(OP)
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        """One pass for the reductions, one for the gradients of the inputs."""
        weights, mean, rstd, count, *zs = ctx.saved_tensors
        needs = ctx.needs_input_grad
        dzs, dweights, dmean, dvar = _backward(
            ctx.plan, grad, zs, weights, mean, rstd, count, needs[4:], needs[1]
        )
        return None, dweights, dmean if needs[2] else None, dvar if needs[3] else None, *dzs


def _forward(
    plan: Plan, zs: Sequence[Tensor], weights: Tensor, mean: Tensor | None, var: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """out, mean, var, rstd [K, C] and the number of values of a channel."""
    name, normalize, _, eps, group = plan
    values = values_of(zs[0])
    count = weights.new_full((), values)
    with without_autocast(zs[0]):
        if mean is not None and var is not None:
            # Copies: what is returned must not be what was given.
            mean, var = _filled(mean.clone(), 0, normalize), _filled(var.clone(), 1, normalize)
        elif zs[0].numel() == 0:
            # Of nothing: they change no merged statistics, and hold no NaN.
            mean = weights.new_zeros(len(zs), zs[0].shape[1])
            var = _filled(torch.zeros_like(mean), 1, normalize)
        else:
            mean, var = primitive(name, "norm_statistics")(zs, normalize)
        if group is not None:
            mean, var, count = merged_moments(mean, var * values, values, group)
            mean, var = _filled(mean, 0, normalize), _filled(var, 1, normalize)
            if values <= 1:
                check_count(count, normalize)
        rstd = _filled((var + eps).rsqrt(), 1, normalize)
        a = weights[:, None] * rstd
        out = primitive(name, "norm_sum_forward")(zs, a, -(a * mean).sum(0))
    return out, mean, var, rstd, count


def _backward(
    plan: Plan,
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
        q = r = torch.zeros_like(a)
        # Every process of a group has to take part in the sums, whatever it needs itself.
        own = through == OWN and any(
            normalized and (needed or group is not None)
            for needed, normalized in zip(needs_z, normalize, strict=True)
        )
        if needs_weights or own or through == GIVEN:
            s0, s1 = primitive(name, "norm_sum_reduce")(grad, zs, mean, rstd)
            if needs_weights:
                # Of this process alone: gradients of weights are averaged over processes later.
                dweights = s1.sum(1)
            if through == GIVEN:
                dmean = _filled(-a * s0, 0, normalize)
                dvar = _filled(-0.5 * a * rstd * s1, 0, normalize)
            if own:
                if group is not None:
                    sums = torch.cat([s0[None], s1])
                    dist.all_reduce(sums, group=group)
                    s0, s1 = sums[0], sums[1:]
                q = _filled(-a * rstd * s1 / count, 0, normalize)
                r = _filled(-a * s0 / count - q * mean, 0, normalize)
        if not any(needs_z):
            return [None] * len(zs), dweights, dmean, dvar
        dzs = primitive(name, "norm_sum_apply")(grad, zs, a, q, r, needs_z)
    return dzs, dweights, dmean, dvar


def _filled(rows: Tensor, value: float, normalize: Sequence[bool]) -> Tensor:
    """``rows`` [K, C] themselves, with ``value`` in those of inputs left as they are."""
    for k, normalized in enumerate(normalize):
        if not normalized:
            # Row by row: a mask would be copied from the host, which graph capture forbids.
            rows[k].fill_(value)
    return rows


def values_of(z: Tensor) -> int:
    """How many values of one channel there are (M)."""
    count = z.shape[0]
    for size in z.shape[2:]:
        count *= size
    return count


def check_count(count: Tensor, normalize: Sequence[bool]) -> None:
    """Refuse a group that has a single value of each channel."""
    if any(normalize) and count.item() <= 1:
        raise RequestError(single_value(None))


def single_value(shape: torch.Size | None) -> str:
    """The message for a variance of one value, in tensors of that shape or over all processes."""
    where = "over all processes" if shape is None else f"in tensors of the shape {list(shape)}"
    return (
        f"{OP}: one value a channel {where}: in training a variance needs at least 2; enlarge the "
        "batch, or pass training=False and stats"
    )


@torch.library.custom_op("ssfnas::mixed_norm_sum", mutates_args=())
def mixed_norm_sum_op(
    zs: Sequence[Tensor],
    weights: Tensor,
    mean: Tensor | None,
    var: Tensor | None,
    normalize: Sequence[bool],
    through: str,
    eps: float,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The op that torch.compile sees: (out, mean, var, rstd); it traces no further."""
    zs = in_one_layout(zs)
    plan = Plan(choose(OP, zs, backend), tuple(normalize), through, eps, None)
    return _forward(plan, zs, weights, mean, var)[:4]


@mixed_norm_sum_op.register_fake
def _(zs: Sequence[Tensor], weights: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    out = torch.empty_like(zs[0], memory_format=memory_format(zs[0]))
    rows = [weights.new_empty(len(zs), zs[0].shape[1]) for _ in range(3)]
    return out, rows[0], rows[1], rows[2]


@torch.library.custom_op("ssfnas::mixed_norm_sum_backward", mutates_args=())
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
    plan = Plan(choose(OP, zs, backend), tuple(normalize), through, 0.0, None)
    count = weights.new_full((), values_of(zs[0]))
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
    given = mean.shape if through == GIVEN else (0,)
    return (
        fake_gradients(zs[0], needs_z),
        weights.new_empty(len(zs) if needs_weights else 0),
        weights.new_empty(given),
        weights.new_empty(given),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    zs, weights, _, _, ctx.normalize, ctx.through, _, ctx.backend = inputs
    _, mean, var, rstd = output
    ctx.save_for_backward(weights, mean, rstd, *zs)
    ctx.mark_non_differentiable(mean, var, rstd)


@differentiable_once(OP)
def _op_backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Any, ...]:
    weights, mean, rstd, *zs = ctx.saved_tensors
    needs_z, needs_weights, needs_mean, needs_var, *_rest = ctx.needs_input_grad
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
        *[None] * 4,
    )


mixed_norm_sum_op.register_autograd(_op_backward, setup_context=_setup_context)
