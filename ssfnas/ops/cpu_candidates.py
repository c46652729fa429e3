"""Candidates of a source on CPUs, in C++ (csrc/cpu/separable_*.cpp, pools.cpp).

Arithmetic is in float32 (float64 for float64), and results do not depend on the number of threads.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ssfnas.kernels.layout import accumulator
from ssfnas.ops import native
from ssfnas.ops.candidate_arguments import Gradients, Units, outputs, sizes_of
from ssfnas.ops.native import address, addresses
from ssfnas.ops.torch_candidates import Statistics


def separable_forward(units: Units) -> tuple[list[Tensor], Tensor, Tensor]:
    """z of every group, and the mean and variance [G, C] of their channels."""
    x = units.x
    zs = outputs(x, units.stride, len(units.depthwise))
    mean = torch.empty(units.rows, dtype=accumulator(x.dtype))
    var = torch.empty_like(mean)
    native._C.separable_forward(
        torch.get_num_threads(),
        units.native(native._C),
        addresses(zs),
        mean.data_ptr(),
        var.data_ptr(),
    )
    return zs, mean, var


def separable_backward(
    given: Gradients, needs_weights: bool
) -> tuple[list[Tensor] | None, list[Tensor] | None]:
    """Fills the gradients of the inputs, and their sums; those of both filters where wanted."""
    units, sums = given.units, given.sums
    d_depthwise = [torch.zeros_like(f) for f in units.depthwise] if needs_weights else None
    d_pointwise = [torch.zeros_like(f) for f in units.pointwise] if needs_weights else None
    native._C.separable_backward(
        torch.get_num_threads(),
        units.native(native._C),
        addresses(given.zs or [None] * len(given.grads)),
        addresses(given.grads),
        given.p.data_ptr(),
        address(given.q),
        address(given.r),
        address(given.total),
        addresses(given.dxs),
        address(None if sums is None else sums[0]),
        address(None if sums is None else sums[1]),
        address(given.center),
        address(given.factors),
        addresses(d_depthwise or []),
        addresses(d_pointwise or []),
    )
    return d_depthwise, d_pointwise


def pools_forward(x: Tensor, stride: int, largest: Tensor, average: Tensor) -> Statistics:
    """Fills the results of both pools; the mean and variance [2, C] of their channels."""
    mean = torch.empty(2, x.shape[1], dtype=accumulator(x.dtype))
    var = torch.empty_like(mean)
    native._C.pools_forward(
        torch.get_num_threads(),
        *sizes_of(x, stride),
        *addresses([x, largest, average, mean, var]),
    )
    return mean, var


def pools_backward(x: Tensor, *args: Any) -> None:
    """Fills the gradient of the source, from dtype, sizes and addresses."""
    native._C.pools_backward(torch.get_num_threads(), *args)
