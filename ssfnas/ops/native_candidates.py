"""Candidates of a source in native code: checked here, computed where the source is.

Definitions, and what the functions take and give: :mod:`ssfnas.ops.torch_candidates`. They raise
a :class:`~ssfnas.errors.RequestError` for tensors that do not fit each other. Images are brought to
channels_last, and so are results.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ssfnas.kernels.layout import accumulator
from ssfnas.ops import cpu_candidates, cuda_candidates
from ssfnas.ops.candidate_arguments import (
    Gradients,
    Units,
    image,
    images,
    moved,
    output_shape,
    outputs,
    room_for_gradients,
    sizes_of,
)
from ssfnas.ops.native import address, addresses
from ssfnas.ops.torch_candidates import Statistics


def separable_forward(
    xs: Sequence[Tensor], depthwise: Sequence[Tensor], pointwise: Sequence[Tensor], **options: Any
) -> tuple[list[Tensor], Tensor, Tensor]:
    """See :func:`ssfnas.ops.torch_candidates.separable_forward`."""
    units = Units(xs, depthwise, pointwise, **options)
    if units.x.numel() == 0:
        zs = outputs(units.x, units.stride, len(depthwise))
        return zs, *_moments_of_nothing(units.rows, units.x)
    found: tuple[list[Tensor], Tensor, Tensor] = _device(units.x).separable_forward(units)
    return found


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
    needs_weights: bool = True,
    into: Tensor | None = None,
    center: Tensor | None = None,
    factors: Tensor | None = None,
    **options: Any,
) -> tuple[list[Tensor], Statistics | None, list[Tensor] | None, list[Tensor] | None]:
    """See :func:`ssfnas.ops.torch_candidates.separable_backward`."""
    units = Units(xs, depthwise, pointwise, **options)
    given = Gradients(units, zs, grads, p, q, r, into, center, factors)
    d_depthwise = d_pointwise = None
    if units.x.numel() != 0:
        d_depthwise, d_pointwise = _device(units.x).separable_backward(given, needs_weights)
    elif needs_weights:
        d_depthwise, d_pointwise = (
            [torch.zeros_like(f) for f in filters] for filters in (units.depthwise, units.pointwise)
        )
    if given.sums is None:
        return [moved(given.dxs[0], into)], None, d_depthwise, d_pointwise
    return given.dxs, (given.sums[0], given.sums[1]), d_depthwise, d_pointwise


def pools_forward(x: Tensor, stride: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See :func:`ssfnas.ops.torch_candidates.pools_forward`."""
    x = image(x)
    largest, average = outputs(x, stride, 2)
    if x.numel() == 0:
        return largest, average, *_moments_of_nothing((2, x.shape[1]), x)
    mean, var = _device(x).pools_forward(x, stride, largest, average)
    return largest, average, mean, var


def pools_backward(
    x: Tensor,
    d_largest: Tensor | None,
    d_average: Tensor | None,
    stride: int,
    into: Tensor | None = None,
) -> Tensor:
    """See :func:`ssfnas.ops.torch_candidates.pools_backward`."""
    x = image(x)
    shape = output_shape(x, stride)
    grads = [None if d is None else images([d], 1, shape, x)[0] for d in (d_largest, d_average)]
    total, (dx,) = room_for_gradients([x], into)
    if x.numel() != 0:
        _device(x).pools_backward(
            x,
            *sizes_of(x, stride),
            x.data_ptr(),
            *addresses(grads),
            address(total),
            dx.data_ptr(),
        )
    return moved(dx, into)


def _moments_of_nothing(shape: tuple[int, int], like: Tensor) -> Statistics:
    """As PyTorch has them."""
    mean = like.new_full(shape, math.nan, dtype=accumulator(like.dtype))
    return mean, mean.clone()


def _device(x: Tensor) -> ModuleType:
    return cuda_candidates if x.is_cuda else cpu_candidates
