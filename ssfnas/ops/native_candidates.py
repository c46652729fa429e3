"""Candidates of a source in C++ (csrc/cpu/separable.cpp, pools.cpp); calls are checked here.

Definitions: :mod:`ssfnas.ops.torch_candidates`. Images are brought to channels_last, and so
are results. Arithmetic is in float32 (float64 for float64), and results do not depend on the
number of threads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ssfnas.errors import RequestError
from ssfnas.kernels.layout import accumulator
from ssfnas.ops import native
from ssfnas.ops.candidate_arguments import (
    Gradients,
    Units,
    empty,
    image,
    images,
    output_shape,
    sizes_of,
)
from ssfnas.ops.native import address, addresses

Statistics = tuple[Tensor, Tensor]


def separable_forward(
    xs: Sequence[Tensor],
    depthwise: Sequence[Tensor],
    pointwise: Sequence[Tensor],
    *,
    stride: int,
    dilations: Sequence[int],
    scale: Tensor | None = None,
    shift: Tensor | None = None,
) -> tuple[list[Tensor], Tensor, Tensor]:
    """z_g of every group, and the mean and biased variance [G, C] of each of its channels.

    Args:
        xs: one source [N, C, H, W] for all groups, or one tensor a group.
        depthwise: G filters [C, 1, k, k], k odd.
        pointwise: G filters [C, C, 1, 1].
        stride: of the depthwise convolutions.
        dilations: G, of the depthwise convolutions.
        scale, shift: [G, C], or both None.

    Raises:
        RequestError: tensors that do not fit each other.
    """
    _check_place(xs[0])
    units = Units.of(xs, depthwise, pointwise, stride, dilations, scale, shift)
    x = units.xs[0]
    zs = [units.output() for _ in units.depthwise]
    mean = torch.empty(units.rows, dtype=accumulator(x.dtype))
    var = torch.empty_like(mean)
    if x.numel() == 0:
        return zs, mean.fill_(math.nan), var.fill_(math.nan)
    native._C.separable_forward(
        torch.get_num_threads(),
        units.native(native._C),
        addresses(zs),
        mean.data_ptr(),
        var.data_ptr(),
    )
    return zs, mean, var


def separable_backward(
    xs: Sequence[Tensor],
    zs: Sequence[Tensor],
    grads: Sequence[Tensor],
    p: Tensor,
    q: Tensor | None,
    r: Tensor | None,
    depthwise: Sequence[Tensor],
    pointwise: Sequence[Tensor],
    *,
    stride: int,
    dilations: Sequence[int],
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    needs_weights: bool = True,
    into: Tensor | None = None,
) -> tuple[list[Tensor], Statistics | None, list[Tensor] | None, list[Tensor] | None]:
    """Gradients of the inputs and the filters of :func:`separable_forward`.

    Args:
        xs, depthwise, pointwise, stride, dilations, scale, shift: as they were in the forward pass.
        zs: its first result; not looked at where ``q`` is None.
        grads: G tensors in the shape of ``zs``; the same one may stand for several groups.
        p, q, r: [G, C]: dz = p grad + q z + r; ``q`` and ``r`` may be None, for zeros.
        needs_weights: whether the filters' gradients are wanted.
        into: with one shared source, a tensor to add its gradient to, in place.

    Returns:
        The gradient of the one source (``into`` itself where it is given), or of every u_g; for the
        latter S0 = sum du_g and S1 = sum du_g u_g, each [G, C]; the gradients of the depthwise and
        of the 1x1 filters in their shapes, in the dtype of sums.

    Raises:
        RequestError: tensors that do not fit each other.
    """
    _check_place(xs[0])
    units = Units.of(xs, depthwise, pointwise, stride, dilations, scale, shift)
    given = Gradients.of(units, zs, grads, p, q, r, into)
    units, sums = given.units, given.sums
    d_depthwise = [torch.zeros_like(f) for f in units.depthwise] if needs_weights else None
    d_pointwise = [torch.zeros_like(f) for f in units.pointwise] if needs_weights else None
    if units.xs[0].numel() != 0:
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
            addresses(d_depthwise or []),
            addresses(d_pointwise or []),
        )
    return *given.inputs(into), d_depthwise, d_pointwise


def pools_forward(x: Tensor, stride: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """3x3 maxima and averages (of the pixels inside), and their mean and variance [2, C].

    Args:
        x: [N, C, H, W].
        stride: of the windows.
    """
    _check_place(x)
    x = image(x)
    largest = empty(output_shape(x.shape, stride), x)
    average = torch.empty_like(largest)
    mean = torch.empty(2, x.shape[1], dtype=accumulator(x.dtype))
    var = torch.empty_like(mean)
    if x.numel() == 0:
        return largest, average, mean.fill_(math.nan), var.fill_(math.nan)
    native._C.pools_forward(
        torch.get_num_threads(),
        *sizes_of(x, stride),
        x.data_ptr(),
        largest.data_ptr(),
        average.data_ptr(),
        mean.data_ptr(),
        var.data_ptr(),
    )
    return largest, average, mean, var


def pools_backward(
    x: Tensor,
    d_largest: Tensor | None,
    d_average: Tensor | None,
    stride: int,
    into: Tensor | None = None,
) -> Tensor:
    """Gradient of the source; a maximum's goes to the first of equal pixels, row by row.

    Args:
        x: the source [N, C, H, W].
        d_largest, d_average: gradients of both results; None where a pool was not used.
        stride: as in the forward pass.
        into: a tensor to add to, in place.

    Raises:
        RequestError: tensors that do not fit each other.
    """
    _check_place(x)
    x = image(x)
    shape = output_shape(x.shape, stride)
    given = [None if d is None else images([d], 1, shape, x)[0] for d in (d_largest, d_average)]
    total = None if into is None else images([into], 1, x.shape, x)[0]
    dx = torch.empty_like(x) if total is None else total
    if x.numel() != 0:
        native._C.pools_backward(
            torch.get_num_threads(),
            *sizes_of(x, stride),
            x.data_ptr(),
            address(given[0]),
            address(given[1]),
            address(total),
            dx.data_ptr(),
        )
    return dx if into is None or into is dx else into.copy_(dx)


def _check_place(x: Tensor) -> None:
    if x.device.type != "cpu":
        raise RequestError(
            f"native code for CPUs got a tensor on {x.device}: it has to be on the CPU"
        )
