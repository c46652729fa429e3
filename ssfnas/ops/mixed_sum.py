"""Weighted sums of tensors in one pass: a mixed operation's, or a whole node's, output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ssfnas.errors import RequestError
from ssfnas.kernels.layout import accumulator, in_one_layout, memory_format
from ssfnas.ops.autocast import autocasts, without_autocast
from ssfnas.ops.differentiable_once import differentiable_once
from ssfnas.ops.selection import choose, primitive, requested, wants_reference

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


def checked(op: str, xs: Sequence[Tensor], weights: Tensor) -> tuple[list[Tensor], Tensor]:
    """The K tensors in one dtype, and their weights in the dtype of sums over them.

    Under autocast tensors of several dtypes are brought to the widest, as a sum of them would be.

    Raises:
        RequestError: no tensors, shapes, dtypes or devices that differ, or not one weight each.
    """
    xs = list(xs)
    if not xs:
        raise RequestError(f"{op}: there is nothing to sum: give at least one tensor")
    first = xs[0]
    if weights.dim() != 1 or weights.shape[0] != len(xs):
        raise RequestError(
            f"{op}: weights have the shape {list(weights.shape)}: {len(xs)} tensors need "
            f"[{len(xs)}]"
        )
    shape, device, dtype = first.shape, first.device, first.dtype
    for k, x in enumerate(xs):
        if x.shape == shape and x.device == device and x.dtype == dtype and k > 0:
            continue
        if x.shape != shape:
            raise RequestError(
                f"{op}: tensor {k} has the shape {list(x.shape)} and tensor 0 "
                f"{list(first.shape)}: all have to have one"
            )
        if x.device != device:
            raise RequestError(
                f"{op}: tensor {k} is on {x.device} and tensor 0 on {first.device}: all have to be "
                "on one device"
            )
        if not x.is_floating_point():
            raise RequestError(f"{op}: tensor {k} is {x.dtype}: it has to be floating point")
    if weights.device != first.device:
        raise RequestError(
            f"{op}: weights are on {weights.device} and tensors on {first.device}: both have to be "
            "on one device"
        )
    if not weights.is_floating_point():
        raise RequestError(f"{op}: weights are {weights.dtype}: they have to be floating point")
    if any(x.dtype != dtype for x in xs):
        if not autocasts(first):
            named = ", ".join(str(x.dtype) for x in xs)
            raise RequestError(f"{op}: tensors are {named}: all have to have one dtype")
        widest = first.dtype
        for x in xs[1:]:
            widest = torch.promote_types(widest, x.dtype)
        xs = [x.to(widest) for x in xs]
    return xs, weights.to(accumulator(xs[0].dtype))


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
    @differentiable_once(_OP)
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
@torch.library.custom_op("ssfnas::mixed_sum", mutates_args=())
def _forward_op(xs: Sequence[Tensor], weights: Tensor, backend: str) -> Tensor:
    xs = in_one_layout(xs)
    return _forward(choose(_OP, xs, backend), xs, weights)


@_forward_op.register_fake
def _(xs: Sequence[Tensor], *_: Any) -> Tensor:
    return torch.empty_like(xs[0], memory_format=memory_format(xs[0]))


@torch.library.custom_op("ssfnas::mixed_sum_backward", mutates_args=())
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
    dweights = weights.new_empty(len(xs) if needs_weights else 0, dtype=accumulator(xs[0].dtype))
    return fake_gradients(xs[0], needs_x), dweights


def fake_gradients(like: Tensor, needs: Sequence[bool]) -> list[Tensor]:
    """Room for gradients of tensors that an op brings to one layout; empty where not wanted."""
    order = memory_format(like)
    return [
        torch.empty_like(like, memory_format=order) if needed else like.new_empty(0)
        for needed in needs
    ]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    xs, weights, ctx.backend = inputs
    ctx.save_for_backward(weights, *xs)


@differentiable_once(_OP)
def _op_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    weights, *xs = ctx.saved_tensors
    needs_x, needs_weights, _ = ctx.needs_input_grad
    dxs, dweights = _backward_op(grad, xs, weights, list(needs_x), needs_weights, ctx.backend)
    return (
        [dx if needed else None for dx, needed in zip(dxs, needs_x, strict=True)],
        dweights if needs_weights else None,
        None,
    )


_forward_op.register_autograd(_op_backward, setup_context=_setup_context)
