"""Candidates of a source on GPUs, in CUDA C++.

Where a block can hold all channels, a unit is fused: its depthwise results stay on the chip, and
go there into the product with the 1x1 filter. Else those of all groups are stacked in memory, and
their 1x1 convolutions are one batched product. The backward pass computes depthwise results again
rather than keep them. Everything runs on the current stream and waits for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ssfnas.kernels.layout import accumulator
from ssfnas.kernels.products import sums_of_products
from ssfnas.ops import native
from ssfnas.ops.candidate_arguments import Gradients, Units, sizes_of
from ssfnas.ops.native import address, addresses, norm_statistics
from ssfnas.ops.torch_candidates import Statistics


def separable_forward(units: Units) -> tuple[list[Tensor], Tensor, Tensor]:
    """z of every group, and the mean and variance [G, C] of their channels."""
    raw = units.native(_core())
    if _is_fused(raw):
        out, mean, var = _fused_forward(units, raw)
        return _apart(out, units.output_shape), mean, var
    filters = _stacked(units.pointwise, units.x.dtype)
    mixed = torch.bmm(_depthwise(units, raw), filters.transpose(1, 2))
    zs = _apart(mixed, units.output_shape)
    return zs, *norm_statistics(zs, [True] * len(zs))


def separable_backward(
    given: Gradients, needs_weights: bool
) -> tuple[list[Tensor] | None, list[Tensor] | None]:
    """Fills the gradients of the inputs, and their sums; those of both filters where wanted."""
    units = given.units
    raw = units.native(_core())
    gradients = _fused_backward if _is_fused(raw) else _unfused_backward
    dd, d_mixing = gradients(given, raw, needs_weights)
    _input_gradients(given, raw, dd)
    if d_mixing is None:
        return None, None
    d_depthwise = _filter_gradients(units, raw, dd)
    return d_depthwise, [d.view_as(f) for d, f in zip(d_mixing, units.pointwise, strict=True)]


def pools_forward(x: Tensor, stride: int, largest: Tensor, average: Tensor) -> Statistics:
    """Fills the results of both pools; the mean and variance [2, C] of their channels."""
    _core().cuda_pools_forward(*_place(x), *sizes_of(x, stride), *addresses([x, largest, average]))
    return norm_statistics([largest, average], [True, True])


def pools_backward(x: Tensor, *args: Any) -> None:
    """Fills the gradient of the source, from dtype, sizes and addresses."""
    _core().cuda_pools_backward(*_place(x), *args)


def _core() -> Any:
    return native._C


def _place(x: Tensor) -> tuple[int, int]:
    """Device and stream."""
    return x.device.index, torch.cuda.current_stream(x.device).cuda_stream


def _is_fused(raw: Any) -> bool:
    """Whether depthwise results of units stay on the chip: where a block can hold all channels.

    Args:
        raw: the units as native code has them; there are pixels.
    """
    return bool(_core().fused_fits(raw))


def _room(units: Units) -> Tensor:
    """For one image a group, [G, pixels, C]."""
    (groups, channels), (samples, _, height, width) = units.rows, units.output_shape
    return units.x.new_empty(groups, samples * height * width, channels)


def _fused_forward(units: Units, raw: Any) -> tuple[Tensor, Tensor, Tensor]:
    """z of all groups, [G, pixels, C], and the mean and variance [G, C] of their channels."""
    out = _room(units)
    mean = torch.empty(units.rows, dtype=accumulator(out.dtype), device=out.device)
    var = torch.empty_like(mean)
    partials = mean.new_empty(_core().fused_forward_partials(raw))
    _core().fused_forward(*_place(out), raw, *addresses([out, mean, var, partials]))
    return out, mean, var


def _fused_backward(
    given: Gradients, raw: Any, needs_weights: bool
) -> tuple[Tensor, Tensor | None]:
    """dD of all groups, [G, pixels, C], and where wanted the 1x1 filters' gradients [G, C, C]."""
    dd, (groups, channels) = _room(given.units), given.units.rows
    d_mixing = partials = None
    if needs_weights:
        d_mixing = given.p.new_empty(groups, channels, channels)
        partials = given.p.new_empty(_core().fused_backward_partials(raw))
    _core().fused_backward(
        *_place(dd),
        raw,
        addresses(given.grads),
        addresses(given.zs),
        *addresses([given.p, given.q, given.r, given.factors, dd, d_mixing, partials]),
    )
    return dd, d_mixing


def _unfused_backward(
    given: Gradients, raw: Any, needs_weights: bool
) -> tuple[Tensor, Tensor | None]:
    """The same by way of memory."""
    dz, samples = _room(given.units), given.units.x.shape[0]
    _core().scaled_sums(
        *_place(dz),
        native.DTYPES[dz.dtype],
        addresses(given.grads),
        addresses(given.zs),
        samples,
        dz.shape[1] // samples,
        dz.shape[2],
        *addresses([given.p, given.q, given.r, given.factors, dz]),
    )
    d_mixing = sums_of_products(dz, _depthwise(given.units, raw)) if needs_weights else None
    return torch.bmm(dz, _stacked(given.units.pointwise, dz.dtype)), d_mixing


def _stacked(pointwise: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    """1x1 filters [G, O, I]."""
    return torch.stack([f.flatten(1) for f in pointwise]).to(dtype)


def _depthwise(units: Units, raw: Any) -> Tensor:
    """The depthwise results of all groups, [G, pixels, C]."""
    out = _room(units)
    _core().depthwise_forward(*_place(out), raw, out.data_ptr())
    return out


def _apart(stacked: Tensor, shape: torch.Size) -> list[Tensor]:
    """[G, pixels, C] as G images [N, C, H, W], channels_last, without a copy."""
    samples, channels, height, width = shape
    return [
        one.view(samples, height, width, channels).permute(0, 3, 1, 2) for one in stacked.unbind()
    ]


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
        *addresses([given.sums, partials, given.center]),
    )


def _filter_gradients(units: Units, raw: Any, dd: Tensor) -> list[Tensor]:
    counts = [f.numel() for f in units.depthwise]
    dtype = accumulator(dd.dtype)
    gradients = torch.empty(sum(counts), dtype=dtype, device=dd.device)
    partials = gradients.new_empty(_core().depthwise_filter_partials(raw))
    _core().depthwise_backward_filter(*_place(dd), raw, *addresses([dd, gradients, partials]))
    return [
        part.view_as(f) for part, f in zip(gradients.split(counts), units.depthwise, strict=True)
    ]
