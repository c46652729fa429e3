"""out = sum_k w_k x_k, and its gradients dx_k = w_k g, dw_k = <g, x_k>, each in one pass.

A tensor is read and written once: 3 K + 2 passes over memory forward and backward together.
"""

# mypy: allow-untyped-defs
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from ssfnas.kernels.layout import accumulator, in_one_layout, memory_format, on_device
from ssfnas.kernels.reductions import TRITON_TYPE, sum_partials
from ssfnas.kernels.tiles import REGISTERS, WARPS, ceil_div, flat_block


@triton.jit
def _forward_kernel(
    xs, weights, out, length, K: tl.constexpr, BLOCK: tl.constexpr, ACC: tl.constexpr
):
    """out = sum_k w_k x_k."""
    start = tl.program_id(0).to(tl.int64) * BLOCK
    lane = tl.arange(0, BLOCK)
    live = start + lane < length
    total = tl.zeros([BLOCK], ACC)
    for k in tl.static_range(K):
        x = tl.load(xs[k] + start + lane, mask=live, other=0.0).to(ACC)
        total += tl.load(weights + k).to(ACC) * x
    tl.store(out + start + lane, total.to(out.dtype.element_ty), mask=live)


@triton.jit
def _backward_kernel(
    grad,
    xs,
    weights,
    dxs,
    partials,
    length,
    K: tl.constexpr,
    BLOCK: tl.constexpr,
    ACC: tl.constexpr,
):
    """dx_k = w_k g where dxs[k] is given; partials[k, program] = <g, x_k> where xs[k] is."""
    program = tl.program_id(0).to(tl.int64)
    start = program * BLOCK
    lane = tl.arange(0, BLOCK)
    live = start + lane < length
    g = tl.load(grad + start + lane, mask=live, other=0.0).to(ACC)
    for k in tl.static_range(K):
        if xs[k] is not None:
            x = tl.load(xs[k] + start + lane, mask=live, other=0.0).to(ACC)
            tl.store(partials + k * tl.num_programs(0) + program, tl.sum(g * x, 0))
        if dxs[k] is not None:
            dx = tl.load(weights + k).to(ACC) * g
            tl.store(dxs[k] + start + lane, dx.to(dxs[k].dtype.element_ty), mask=live)


def mixed_sum_forward(xs: Sequence[Tensor], weights: Tensor) -> Tensor:
    """Weighted sum of K tensors.

    Args:
        xs: K tensors of one shape and dtype (any number of dimensions).
        weights: [K], float32 (float64 for float64 tensors).

    Returns:
        The sum, accumulated in float32 (float64), in the dtype and layout of ``xs[0]``.
    """
    xs = in_one_layout(xs)
    out = torch.empty_like(xs[0])
    if out.numel() == 0:
        return out
    block = flat_block(out.dtype, len(xs))
    with on_device(out):
        _forward_kernel[(ceil_div(out.numel(), block),)](
            tuple(xs),
            weights.contiguous(),
            out,
            out.numel(),
            K=len(xs),
            BLOCK=block,
            ACC=TRITON_TYPE[accumulator(out.dtype)],
            num_warps=WARPS,
            maxnreg=REGISTERS,
        )
    return out


def mixed_sum_backward(
    grad: Tensor,
    xs: Sequence[Tensor],
    weights: Tensor,
    needs_x: Sequence[bool],
    needs_weights: bool,
) -> tuple[list[Tensor | None], Tensor | None]:
    """Gradients of :func:`mixed_sum_forward`.

    Args:
        grad: gradient of the sum, of the shape of ``xs[0]``.
        xs: the K tensors that were summed.
        weights: [K].
        needs_x: which of the tensors want a gradient; the others cost nothing.
        needs_weights: whether the weights want one; if not, ``xs`` are not read.

    Returns:
        The K gradients (None where unwanted) and that of the weights, [K] in float32 (float64).
    """
    count = len(xs)
    dtype = accumulator(xs[0].dtype)
    xs = in_one_layout(xs)
    grad = grad.contiguous(memory_format=memory_format(xs[0]))
    dxs = [torch.empty_like(x) if needed else None for x, needed in zip(xs, needs_x, strict=True)]
    if grad.numel() == 0:
        empty = torch.zeros(count, dtype=dtype, device=grad.device) if needs_weights else None
        return dxs, empty
    if not needs_weights and not any(needs_x):
        return dxs, None
    block = flat_block(grad.dtype, count)
    programs = ceil_div(grad.numel(), block)
    partials = (
        torch.empty((count, programs, 1), dtype=dtype, device=grad.device)
        if needs_weights
        else None
    )
    with on_device(grad):
        _backward_kernel[(programs,)](
            grad,
            tuple(xs) if needs_weights else (None,) * count,
            weights.contiguous(),
            tuple(dxs),
            partials,
            grad.numel(),
            K=count,
            BLOCK=block,
            ACC=TRITON_TYPE[dtype],
            num_warps=WARPS,
            maxnreg=REGISTERS,
        )
        dweights = None if partials is None else sum_partials(partials).view(count)
    return dxs, dweights
