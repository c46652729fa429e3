"""Weighted sums of tensors in one pass: a mixed operation's, or a whole node's, output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ssfnas.kernels.layout import accumulator, in_one_layout, memory_format
from ssfnas.ops.autocast import without_autocast
from ssfnas.ops.layout import checked
from ssfnas.ops.selection import (
    choose,
    primitive,
    requested,
    wants_reference,
)

_OP = "mixed_sum"


def mixed_sum_reference(xs: Sequence[Tensor], weights: Tensor) -> Tensor:
    """The definition of :func:`mixed_sum`, differentiable any number of times."""
    xs, weights = checked(_OP, xs, weights)
    with without_autocast(xs[0]):
        total = torch.zeros((), dtype=weights.dtype, device=weights.device)
        for x, weight in zip(xs, weights, strict=True):
            total = total + weight * x.to(weights.dtype)
        return total.to(xs[0].dtype)


def mixed_sum(xs: Sequence[Tensor], weights: Tensor) -> Tensor:
    """sum_k w_k x_k.

    The gradients are dx_k = w_k g and dw_k = <g, x_k>. Nothing is computed for tensors that need no
    gradient, and nothing is updated in place.

    Args:
        xs: K tensors of one shape, dtype and device; float16, bfloat16, float32 or float64. Any
            layouts: the others are brought to that of the first.
        weights: [K], any floating dtype; computed with in float32 (float64 for float64 tensors).

    Returns:
        The sum, accumulated in float32 (float64), in the dtype and layout of ``xs[0]``.
        Differentiable once; the reference is differentiable any number of times.

    Raises:
        RequestError: no tensors, shapes, dtypes or devices that differ, or not one weight each.
        BackendError: a backend was asked for by name and cannot take these tensors.
    """
    if wants_reference():
        return mixed_sum_reference(xs, weights)
    xs, weights = checked(_OP, xs, weights)
    if torch.compiler.is_compiling():
        return _forward_op(xs, weights, requested())
    result: Tensor = _MixedSum.apply(choose(_OP, xs, requested()), weights, *xs)
    return result


class _MixedSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, name: str, weights: Tensor, *given: Tensor) -> Tensor:
        xs = in_one_layout(given)
        ctx.name = name
        # What only the weights' gradient reads is not kept where they need none.
        ctx.needs_weights = ctx.needs_input_grad[1]
        ctx.save_for_backward(weights, *(xs if ctx.needs_weights else xs[:1]))
        return _forward(name, xs, weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weights, *xs = ctx.saved_tensors
        needs_x = ctx.needs_input_grad[2:]
        if not ctx.needs_weights:
            xs = xs * len(needs_x)
        dxs, dweights = _backward(ctx.name, grad, xs, weights, needs_x, ctx.needs_weights)
        return (None, dweights, *dxs)


def _forward(name: str, xs: Sequence[Tensor], weights: Tensor) -> Tensor:
    with without_autocast(xs[0]):
        out: Tensor = primitive(name, "mixed_sum_forward")(xs, weights)
        return out


def _backward(
    name: str,
    grad: Tensor,
    xs: Sequence[Tensor],
    weights: Tensor,
    needs_x: Sequence[bool],
    needs_weights: bool,
) -> tuple[list[Tensor | None], Tensor | None]:
    grad = grad.contiguous(memory_format=memory_format(xs[0]))
    with without_autocast(grad):
        dxs, dweights = primitive(name, "mixed_sum_backward")(
            grad, xs, weights, needs_x, needs_weights
        )
        return dxs, dweights


# Under torch.compile the op is opaque: Dynamo cannot trace kernels that take tuples of tensors.
@torch.library.custom_op(
    "ssfnas::mixed_sum",
    mutates_args=(),
    schema="(Tensor[] xs, Tensor weights, str backend) -> Tensor",
)
def _forward_op(xs: Sequence[Tensor], weights: Tensor, backend: str) -> Tensor:
    xs = in_one_layout(xs)
    return _forward(choose(_OP, xs, backend), xs, weights)


@_forward_op.register_fake
def _(xs: Sequence[Tensor], weights: Tensor, backend: str) -> Tensor:
    return torch.empty_like(xs[0], memory_format=memory_format(xs[0]))


@torch.library.custom_op(
    "ssfnas::mixed_sum_backward",
    mutates_args=(),
    schema="(Tensor grad, Tensor[] xs, Tensor weights, bool[] needs_x, bool needs_weights, "
    "str backend) -> (Tensor[], Tensor)",
)
def _backward_op(
    grad: Tensor,
    xs: Sequence[Tensor],
    weights: Tensor,
    needs_x: Sequence[bool],
    needs_weights: bool,
    backend: str,
) -> tuple[list[Tensor], Tensor]:
    xs = in_one_layout(xs)
    name = choose(_OP, xs, backend)
    dxs, dweights = _backward(name, grad, xs, weights, needs_x, needs_weights)
    # An op cannot return None: what nobody wants is empty.
    return (
        [grad.new_empty(0) if dx is None else dx for dx in dxs],
        weights.new_empty(0) if dweights is None else dweights,
    )


@_backward_op.register_fake
def _(
    grad: Tensor,
    xs: Sequence[Tensor],
    weights: Tensor,
    needs_x: Sequence[bool],
    needs_weights: bool,
    backend: str,
) -> tuple[list[Tensor], Tensor]:
    order = memory_format(xs[0])
    return (
        [
            torch.empty_like(xs[0], memory_format=order) if needed else grad.new_empty(0)
            for needed in needs_x
        ],
        weights.new_empty(len(xs) if needs_weights else 0, dtype=accumulator(xs[0].dtype)),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    xs, weights, ctx.backend = inputs
    ctx.save_for_backward(weights, *xs)


def _op_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    weights, *xs = ctx.saved_tensors
    needs_x, needs_weights, _ = ctx.needs_input_grad
    if isinstance(needs_x, bool):
        needs_x = [needs_x] * len(xs)
    dxs, dweights = _backward_op(grad, xs, weights, list(needs_x), needs_weights, ctx.backend)
    return (
        [dx if needed else None for dx, needed in zip(dxs, needs_x, strict=True)],
        dweights if needs_weights else None,
        None,
    )


_forward_op.register_autograd(_op_backward, setup_context=_setup_context)
