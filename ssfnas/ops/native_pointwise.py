"""A cell's entry in C++ (csrc/cpu/pointwise.cpp), on CPUs alone.

Definitions, and what the functions take and give: :mod:`ssfnas.ops.torch_pointwise`. Images are
brought to channels_last, and so are results.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ssfnas.errors import RequestError
from ssfnas.kernels.layout import accumulator
from ssfnas.ops import native
from ssfnas.ops.candidate_arguments import image, images
from ssfnas.ops.native import address, addresses, coefficients


def pointwise_forward(xs: Sequence[Tensor], weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """See :func:`ssfnas.ops.torch_pointwise.pointwise_forward`."""
    xs, weight, shape = _checked(xs, weight)
    x = xs[0]
    z = torch.empty(shape, dtype=x.dtype, memory_format=torch.channels_last)
    mean = torch.full((1, shape[1]), math.nan, dtype=accumulator(x.dtype))
    var = mean.clone()
    if x.numel() != 0:
        native._C.pointwise_forward(
            *_place(x, shape[1]), addresses(xs), *addresses([weight, z, mean, var])
        )
    return z, mean, var


def pointwise_backward(
    xs: Sequence[Tensor],
    z: Tensor,
    grad: Tensor,
    p: Tensor,
    q: Tensor | None,
    r: Tensor | None,
    weight: Tensor,
    *,
    needs_x: bool = True,
    needs_weight: bool = True,
    into: Sequence[Tensor] | None = None,
) -> tuple[list[Tensor] | None, Tensor | None]:
    """See :func:`ssfnas.ops.torch_pointwise.pointwise_backward`."""
    xs, weight, shape = _checked(xs, weight)
    x = xs[0]
    (grad,) = images([grad], 1, shape, x)
    z = grad if q is None else images([z], 1, shape, x)[0]
    p = coefficients(p, x, (1, shape[1]))
    q, r = (None if row is None else coefficients(row, x, (1, shape[1])) for row in (q, r))
    dxs = [torch.empty_like(x) for x in xs] if needs_x else None
    before = [] if into is None else images(into, len(xs), x.shape, x)
    d_weight = torch.zeros_like(weight) if needs_weight else None
    if x.numel() != 0 and (needs_x or needs_weight):
        native._C.pointwise_backward(
            *_place(x, shape[1]),
            addresses(xs),
            z.data_ptr(),
            grad.data_ptr(),
            p.data_ptr(),
            address(q),
            address(r),
            weight.data_ptr(),
            addresses(before),
            addresses(dxs or []),
            address(d_weight),
        )
    return dxs, d_weight


def _checked(xs: Sequence[Tensor], weight: Tensor) -> tuple[list[Tensor], Tensor, torch.Size]:
    """Both, dense, the weight in the dtype of sums; and the shape of the result."""
    first = image(xs[0])
    if first.device.type != "cpu":
        raise RequestError(f"pointwise got a tensor on {first.device}: native code has it on CPUs")
    dense = images(xs, len(xs), first.shape, first)
    outputs, inputs = len(weight), len(xs) * first.shape[1]
    shape = torch.Size((first.shape[0], outputs, *first.shape[2:]))
    return dense, coefficients(weight, first, (outputs, inputs, 1, 1)), shape


def _place(x: Tensor, outputs: int) -> tuple[int, int, tuple[int, int, int]]:
    """Threads, dtype and sizes, as the native code wants them."""
    sizes = x.numel() // x.shape[1], x.shape[1], outputs
    return torch.get_num_threads(), native.DTYPES[x.dtype], sizes
