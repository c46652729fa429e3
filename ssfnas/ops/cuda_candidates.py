"""Candidates of a source on GPUs, in CUDA C++.

Definitions: :mod:`ssfnas.ops.torch_candidates`. Where a block can hold all channels, a unit is
fused: its depthwise results stay on the chip, and go there into the product with the 1x1 filter.
Else those of all groups are stacked in memory, and their 1x1 convolutions are one batched product.
The backward pass computes depthwise results again rather than keep them. Everything runs on the
current stream and waits for nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

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
from ssfnas.ops.native import address, addresses, norm_statistics

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
        xs, depthwise, pointwise, stride, dilations, scale, shift: see
            :func:`ssfnas.ops.native_candidates.separable_forward`.

    Raises:
        RequestError: tensors that do not fit each other.
    """
    units = Units.of(xs, depthwise, pointwise, stride, dilations, scale, shift)
    x = units.xs[0]
    if x.numel() == 0:
        zs = [units.output() for _ in units.depthwise]
        mean = torch.full(units.rows, math.nan, dtype=accumulator(x.dtype), device=x.device)
        return zs, mean, mean.clone()
    raw = units.native(_core())
    if _is_fused(raw):
        out, mean, var = _fused_forward(units, raw)
        return _apart(out, units.output_shape), mean, var
    mixed = torch.bmm(_depthwise(units, raw), _stacked(units.pointwise, x.dtype).transpose(1, 2))
    zs = _apart(mixed, units.output_shape)
    mean, var = norm_statistics(zs, [True] * len(zs))
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

    Args and results: see :func:`ssfnas.ops.native_candidates.separable_backward`.

    Raises:
        RequestError: tensors that do not fit each other.
    """
    units = Units.of(xs, depthwise, pointwise, stride, dilations, scale, shift)
    given = Gradients.of(units, zs, grads, p, q, r, into)
    units = given.units
    if units.xs[0].numel() == 0:
        if not needs_weights:
            return *given.inputs(into), None, None
        return *given.inputs(into), _zeros(units.depthwise), _zeros(units.pointwise)
    raw = units.native(_core())
    gradients = _fused_backward if _is_fused(raw) else _unfused_backward
    dd, d_mixing = gradients(given, raw, needs_weights)
    _input_gradients(given, raw, dd)
    d_depthwise = _filter_gradients(units, raw, dd) if needs_weights else None
    d_pointwise = None
    if d_mixing is not None:
        d_pointwise = [found.view_as(f) for found, f in zip(d_mixing, units.pointwise, strict=True)]
    return *given.inputs(into), d_depthwise, d_pointwise


def pools_forward(x: Tensor, stride: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """3x3 maxima and averages (of the pixels inside), and their mean and variance [2, C].

    Args:
        x: [N, C, H, W].
        stride: of the windows.
    """
    place, x = _place(x), image(x)
    largest = empty(output_shape(x.shape, stride), x)
    average = torch.empty_like(largest)
    if x.numel() == 0:
        shape = (2, x.shape[1])
        mean = torch.full(shape, math.nan, dtype=accumulator(x.dtype), device=x.device)
        return largest, average, mean, mean.clone()
    _core().cuda_pools_forward(
        *place, *sizes_of(x, stride), x.data_ptr(), largest.data_ptr(), average.data_ptr()
    )
    mean, var = norm_statistics([largest, average], [True, True])
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
    place, x = _place(x), image(x)
    shape = output_shape(x.shape, stride)
    given = [None if d is None else images([d], 1, shape, x)[0] for d in (d_largest, d_average)]
    total = None if into is None else images([into], 1, x.shape, x)[0]
    dx = torch.empty_like(x) if total is None else total
    if x.numel() != 0:
        _core().cuda_pools_backward(
            *place,
            *sizes_of(x, stride),
            x.data_ptr(),
            address(given[0]),
            address(given[1]),
            address(total),
            dx.data_ptr(),
        )
    return dx if into is None or into is dx else into.copy_(dx)


def _core() -> Any:
    return native._C


def _place(x: Tensor) -> tuple[int, int]:
    """Device and stream."""
    if not x.is_cuda:
        raise RequestError(f"native code for GPUs got a tensor on {x.device}")
    return x.device.index, torch.cuda.current_stream(x.device).cuda_stream


def _zeros(filters: Sequence[Tensor]) -> list[Tensor]:
    return [torch.zeros_like(f) for f in filters]


def _pixels(units: Units) -> int:
    samples, _, height, width = units.output_shape
    return samples * height * width


def _is_fused(raw: Any) -> bool:
    """Whether depthwise results of units stay on the chip: where a block can hold all channels.

    Args:
        raw: the units as native code has them; there are pixels.
    """
    return bool(_core().fused_fits(raw))


def _fused_forward(units: Units, raw: Any) -> tuple[Tensor, Tensor, Tensor]:
    """z of all groups, [G, pixels, C], and the mean and variance [G, C] of their channels."""
    x = units.xs[0]
    out = x.new_empty(len(units.depthwise), _pixels(units), x.shape[1])
    mean = torch.empty(units.rows, dtype=accumulator(x.dtype), device=x.device)
    var = torch.empty_like(mean)
    partials = mean.new_empty(_core().fused_forward_partials(raw))
    _core().fused_forward(
        *_place(x), raw, out.data_ptr(), mean.data_ptr(), var.data_ptr(), partials.data_ptr()
    )
    return out, mean, var


def _fused_backward(
    given: Gradients, raw: Any, needs_weights: bool
) -> tuple[Tensor, Tensor | None]:
    """dD of all groups, [G, pixels, C], and where wanted the 1x1 filters' gradients [G, C, C]."""
    x, (groups, channels) = given.units.xs[0], given.units.rows
    dd = x.new_empty(groups, _pixels(given.units), channels)
    d_mixing = partials = None
    if needs_weights:
        d_mixing = given.p.new_empty(groups, channels, channels)
        partials = given.p.new_empty(_core().fused_backward_partials(raw))
    _core().fused_backward(
        *_place(x),
        raw,
        addresses(given.grads),
        addresses(given.zs),
        given.p.data_ptr(),
        address(given.q),
        address(given.r),
        dd.data_ptr(),
        address(d_mixing),
        address(partials),
    )
    return dd, d_mixing


def _unfused_backward(
    given: Gradients, raw: Any, needs_weights: bool
) -> tuple[Tensor, Tensor | None]:
    """The same by way of memory."""
    dz = _scaled(given)
    d_mixing = _sums_of_products(dz, _depthwise(given.units, raw)) if needs_weights else None
    return torch.bmm(dz, _stacked(given.units.pointwise, dz.dtype)), d_mixing


def _stacked(pointwise: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    """1x1 filters [G, O, I]."""
    return torch.stack([f.flatten(1) for f in pointwise]).to(dtype)


def _depthwise(units: Units, raw: Any) -> Tensor:
    """The depthwise results of all groups, [G, pixels, C]."""
    x = units.xs[0]
    out = x.new_empty(len(units.depthwise), _pixels(units), x.shape[1])
    _core().depthwise_forward(*_place(x), raw, out.data_ptr())
    return out


def _apart(stacked: Tensor, shape: torch.Size) -> list[Tensor]:
    """[G, pixels, C] as G images [N, C, H, W], channels_last, without a copy."""
    samples, channels, height, width = shape
    return [
        one.view(samples, height, width, channels).permute(0, 3, 1, 2) for one in stacked.unbind()
    ]


def _scaled(given: Gradients) -> Tensor:
    """p grad + q z + r of all groups, [G, pixels, C]."""
    first = given.grads[0]
    channels = first.shape[1]
    pixels = first.numel() // channels
    out = first.new_empty(len(given.grads), pixels, channels)
    _core().scaled_sums(
        *_place(first),
        native.DTYPES[first.dtype],
        addresses(given.grads),
        addresses(given.zs),
        pixels,
        channels,
        given.p.data_ptr(),
        address(given.q),
        address(given.r),
        out.data_ptr(),
    )
    return out


def _input_gradients(given: Gradients, raw: Any, dd: Tensor) -> None:
    """Fills the gradients of the inputs, and their sums, from those of depthwise results."""
    partials = None
    if given.sums is not None:
        partials = given.sums.new_empty(_core().depthwise_input_partials(raw))
    _core().depthwise_backward_input(
        *_place(dd),
        raw,
        dd.data_ptr(),
        address(given.total),
        addresses(given.dxs),
        address(given.sums),
        address(partials),
    )


def _sums_of_products(dz: Tensor, inner: Tensor) -> Tensor:
    """sum over pixels of dz_o D_i, [G, O, I] in the dtype of sums."""
    left, dtype = dz.transpose(1, 2), accumulator(dz.dtype)
    if dz.dtype == dtype:
        return torch.bmm(left, inner)
    if dz.is_cuda:
        return torch.bmm(left, inner, out_dtype=dtype)
    return torch.bmm(left.to(dtype), inner.to(dtype))


def _filter_gradients(units: Units, raw: Any, dd: Tensor) -> list[Tensor]:
    x, counts = units.xs[0], [f.numel() for f in units.depthwise]
    dtype = accumulator(x.dtype)
    gradients = torch.empty(sum(counts), dtype=dtype, device=x.device)
    partials = torch.empty(_core().depthwise_filter_partials(raw), dtype=dtype, device=x.device)
    _core().depthwise_backward_filter(
        *_place(x), raw, dd.data_ptr(), gradients.data_ptr(), partials.data_ptr()
    )
    return [
        part.view_as(f) for part, f in zip(gradients.split(counts), units.depthwise, strict=True)
    ]
