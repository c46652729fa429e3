"""Candidates of a source in C++ (csrc/separable.cpp, pools.cpp); what is handed over is checked.

Definitions: :mod:`ssfnas.ops.torch_stencils`. Images are brought to channels_last, and results are
in it. Arithmetic is in float32 (float64 for float64), and results do not depend on the number of
threads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ssfnas.errors import RequestError
from ssfnas.ops import native
from ssfnas.ops.layout import accumulator
from ssfnas.ops.native import address, addresses, coefficients

Statistics = tuple[Tensor, Tensor]

_NHWC = torch.channels_last


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
    units = _Units.of(xs, depthwise, pointwise, stride, dilations, scale, shift)
    x = units.xs[0]
    zs = [units.output() for _ in units.depthwise]
    mean = torch.empty(units.rows, dtype=accumulator(x.dtype))
    var = torch.empty_like(mean)
    if x.numel() == 0:
        return zs, mean.fill_(math.nan), var.fill_(math.nan)
    native._C.separable_forward(
        torch.get_num_threads(), units.native(), addresses(zs), mean.data_ptr(), var.data_ptr()
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
    units = _Units.of(xs, depthwise, pointwise, stride, dilations, scale, shift)
    x, shared = units.xs[0], len(units.xs) == 1 and scale is None
    if not shared and len(units.xs) == 1:
        # One tensor that each group normalises in its own way.
        units = units.with_inputs([x] * len(units.depthwise))
    if not shared and (into is not None or scale is None):
        raise RequestError(
            "native code got several inputs with `into`, or without a scale: either all groups "
            "share one source, or each normalises an input of its own"
        )
    grads = _images(grads, len(units.depthwise), units.output_shape, x)
    p = coefficients(p, x, units.rows)
    if q is None or r is None:
        q = r = None
        zs = []
    else:
        q, r = coefficients(q, x, units.rows), coefficients(r, x, units.rows)
        zs = _images(zs, len(grads), units.output_shape, x)
    total = None if into is None else _images([into], 1, x.shape, x)[0]
    dxs = [torch.empty_like(x) if total is None else total for x in units.xs]
    sums = None if shared else (p.new_zeros(units.rows), p.new_zeros(units.rows))
    d_depthwise = [torch.zeros_like(f) for f in units.depthwise] if needs_weights else None
    d_pointwise = [torch.zeros_like(f) for f in units.pointwise] if needs_weights else None
    if x.numel() != 0:
        native._C.separable_backward(
            torch.get_num_threads(),
            units.native(),
            addresses(zs or [None] * len(grads)),
            addresses(grads),
            p.data_ptr(),
            address(q),
            address(r),
            address(total),
            addresses(dxs),
            address(None if sums is None else sums[0]),
            address(None if sums is None else sums[1]),
            addresses(d_depthwise or []),
            addresses(d_pointwise or []),
        )
    if into is not None and into is not dxs[0]:
        dxs[0] = into.copy_(dxs[0])
    return dxs, sums, d_depthwise, d_pointwise


def pools_forward(x: Tensor, stride: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """3x3 maxima and averages (of the pixels inside), and their mean and variance [2, C].

    Args:
        x: [N, C, H, W].
        stride: of the windows.
    """
    x = _image(x)
    largest = _empty(_output_shape(x.shape, stride), x)
    average = torch.empty_like(largest)
    mean = torch.empty(2, x.shape[1], dtype=accumulator(x.dtype))
    var = torch.empty_like(mean)
    if x.numel() == 0:
        return largest, average, mean.fill_(math.nan), var.fill_(math.nan)
    native._C.pools_forward(
        *_sizes(x, stride),
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
    x = _image(x)
    shape = _output_shape(x.shape, stride)
    given = [None if d is None else _images([d], 1, shape, x)[0] for d in (d_largest, d_average)]
    total = None if into is None else _images([into], 1, x.shape, x)[0]
    dx = torch.empty_like(x) if total is None else total
    if x.numel() != 0:
        native._C.pools_backward(
            *_sizes(x, stride),
            x.data_ptr(),
            address(given[0]),
            address(given[1]),
            address(total),
            dx.data_ptr(),
        )
    return dx if into is None or into is dx else into.copy_(dx)


@dataclass(frozen=True)
class _Units:
    """What both passes take, as raw memory wants it."""

    xs: list[Tensor]
    depthwise: list[Tensor]
    pointwise: list[Tensor]
    stride: int
    dilations: list[int]
    scale: Tensor | None
    shift: Tensor | None

    @staticmethod
    def of(
        xs: Sequence[Tensor],
        depthwise: Sequence[Tensor],
        pointwise: Sequence[Tensor],
        stride: int,
        dilations: Sequence[int],
        scale: Tensor | None,
        shift: Tensor | None,
    ) -> _Units:
        """The arguments checked, dense, and in the dtypes that the loops read."""
        groups = len(depthwise)
        if not groups or len(pointwise) != groups or len(dilations) != groups:
            raise RequestError(
                f"native code got {groups} depthwise filters, {len(pointwise)} 1x1 filters and "
                f"{len(dilations)} dilations: one of each a group is needed"
            )
        if stride < 1 or min(dilations) < 1:
            raise RequestError(f"native code got stride {stride}, dilations {list(dilations)}")
        x = _image(xs[0])
        channels = x.shape[1]
        if (scale is None) != (shift is None):
            raise RequestError("native code got one of scale and shift: give both or none")
        if scale is not None and shift is not None:
            scale, shift = (coefficients(row, x, (groups, channels)) for row in (scale, shift))
        return _Units(
            _images(xs, 1 if len(xs) == 1 else groups, x.shape, x),
            [
                coefficients(f, x, (channels, 1, f.shape[-1] // 2 * 2 + 1, f.shape[-1]))
                for f in depthwise
            ],
            [coefficients(f, x, (channels, channels, 1, 1)) for f in pointwise],
            stride,
            list(dilations),
            scale,
            shift,
        )

    def with_inputs(self, xs: list[Tensor]) -> _Units:
        return _Units(
            xs,
            self.depthwise,
            self.pointwise,
            self.stride,
            self.dilations,
            self.scale,
            self.shift,
        )

    @property
    def rows(self) -> tuple[int, int]:
        """Shape of coefficients and statistics."""
        return len(self.depthwise), self.xs[0].shape[1]

    @property
    def output_shape(self) -> torch.Size:
        return _output_shape(self.xs[0].shape, self.stride)

    def output(self) -> Tensor:
        """Room for a z."""
        return _empty(self.output_shape, self.xs[0])

    def native(self) -> Any:
        """These as the native code's argument; the tensors have to outlive it."""
        x = self.xs[0]
        shared = len(self.xs) == 1 and self.scale is None
        _, dtype, sizes = _sizes(x, self.stride)
        return native._C.Units(
            dtype,
            sizes,
            [f.shape[-1] for f in self.depthwise],
            self.dilations,
            addresses(self.depthwise),
            addresses(self.pointwise),
            addresses(self.xs if shared or len(self.xs) > 1 else self.xs * len(self.depthwise)),
            shared,
            address(self.scale),
            address(self.shift),
        )


def _sizes(x: Tensor, stride: int) -> tuple[int, int, tuple[int, int, int, int, int]]:
    """Threads, dtype and sizes."""
    images, channels, height, width = x.shape
    return (
        torch.get_num_threads(),
        native.DTYPES[x.dtype],
        (images, height, width, channels, stride),
    )


def _output_shape(shape: torch.Size, stride: int) -> torch.Size:
    return torch.Size((*shape[:2], *(-(-size // stride) for size in shape[2:])))


def _empty(shape: Sequence[int], like: Tensor) -> Tensor:
    return torch.empty(shape, dtype=like.dtype, memory_format=_NHWC)


def _image(x: Tensor) -> Tensor:
    """A tensor on the processor [N, C, H, W], dense, its channels next to each other."""
    if x.dim() != 4 or x.device.type != "cpu" or x.dtype not in native.DTYPES:
        raise RequestError(
            f"native code got {list(x.shape)} {x.dtype} on {x.device}: images are [N, C, H, W], "
            "floating point, on the processor"
        )
    return x.contiguous(memory_format=_NHWC)


def _images(xs: Sequence[Tensor], count: int, shape: torch.Size, like: Tensor) -> list[Tensor]:
    """So many tensors of that shape and the dtype of ``like``, dense in channels_last."""
    if len(xs) != count:
        raise RequestError(f"native code got {len(xs)} tensors: {count} are needed")
    for x in xs:
        if x.shape != shape or x.dtype != like.dtype or x.device != like.device:
            raise RequestError(
                f"native code got {list(x.shape)} {x.dtype} on {x.device} where {list(shape)} "
                f"{like.dtype} on {like.device} fits"
            )
    return [x.contiguous(memory_format=_NHWC) for x in xs]
