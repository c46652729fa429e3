"""A cell's entry in C++ (csrc/cpu/pointwise.cpp), on CPUs alone.

Definitions, and what the functions take and give: :mod:`ssfnas.ops.torch_pointwise`. Images are
brought to channels_last, and so are results.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ssfnas.errors import RequestError
from ssfnas.kernels.layout import accumulator
from ssfnas.ops import native
from ssfnas.ops.candidate_arguments import image, images, moved, room_for_gradients
from ssfnas.ops.native import coefficients


def pointwise_forward(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """See :func:`ssfnas.ops.torch_pointwise.pointwise_forward`."""
    x, weight = _checked(x, weight)
    outputs = weight.shape[0]
    shape = (x.shape[0], outputs, *x.shape[2:])
    z = torch.empty(shape, dtype=x.dtype, memory_format=torch.channels_last)
    mean = torch.full((1, outputs), math.nan, dtype=accumulator(x.dtype))
    var = mean.clone()
    if x.numel() != 0:
        native._C.pointwise_forward(
            *_place(x, outputs), *native.addresses([x, weight, z, mean, var])
        )
    return z, mean, var


def pointwise_backward(
    x: Tensor,
    z: Tensor,
    grad: Tensor,
    p: Tensor,
    q: Tensor | None,
    r: Tensor | None,
    weight: Tensor,
    *,
    needs_x: bool = True,
    needs_weight: bool = True,
    into: Tensor | None = None,
) -> tuple[Tensor | None, Tensor | None]:
    """See :func:`ssfnas.ops.torch_pointwise.pointwise_backward`."""
    x, weight = _checked(x, weight)
    outputs = weight.shape[0]
    shape = torch.Size((x.shape[0], outputs, *x.shape[2:]))
    (grad,) = images([grad], 1, shape, x)
    z = grad if q is None else images([z], 1, shape, x)[0]
    rows = [None if row is None else coefficients(row, x, (1, outputs)) for row in (p, q, r)]
    total, dx = None, None
    if needs_x:
        total, (dx,) = room_for_gradients([x], into)
    d_weight = torch.zeros_like(weight) if needs_weight else None
    if x.numel() != 0 and (needs_x or needs_weight):
        native._C.pointwise_backward(
            *_place(x, outputs),
            *native.addresses([x, z, grad, *rows, weight, total, dx, d_weight]),
        )
    return None if dx is None else moved(dx, into), d_weight


def _checked(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Both, dense, the weight in the dtype of sums."""
    x = image(x)
    if x.device.type != "cpu":
        raise RequestError(f"pointwise got a tensor on {x.device}: native code has it on CPUs")
    return x, coefficients(weight, x, (weight.shape[0], x.shape[1], 1, 1))


def _place(x: Tensor, outputs: int) -> tuple[int, int, tuple[int, int, int]]:
    """Threads, dtype and sizes, as the native code wants them."""
    sizes = x.numel() // x.shape[1], x.shape[1], outputs
    return torch.get_num_threads(), native.DTYPES[x.dtype], sizes
