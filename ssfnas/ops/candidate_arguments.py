"""Arguments of native candidate operations, checked and as raw memory wants them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ssfnas.errors import RequestError
from ssfnas.ops import native
from ssfnas.ops.native import address, addresses, all_coefficients, coefficients

_NHWC = torch.channels_last


class Units:
    """What both passes of separable units take: dense, and in the dtypes that the loops read.

    Args:
        xs, depthwise, pointwise, stride, dilations, scale, shift: see
            :func:`ssfnas.ops.torch_candidates.separable_forward`.

    Attributes:
        xs: the source that all groups share, or an input for each.
        shared: which of both.
        x: the first of them.
        rows: (G, C), the shape of coefficients and statistics.
        sizes: k of each depthwise filter.
        output_shape: of every z.
    """

    def __init__(
        self,
        xs: Sequence[Tensor],
        depthwise: Sequence[Tensor],
        pointwise: Sequence[Tensor],
        *,
        stride: int,
        dilations: Sequence[int],
        scale: Tensor | None = None,
        shift: Tensor | None = None,
    ) -> None:
        groups = len(depthwise)
        if not groups or len(pointwise) != groups or len(dilations) != groups:
            raise RequestError(
                f"native code got {groups} depthwise filters, {len(pointwise)} 1x1 filters and "
                f"{len(dilations)} dilations: one of each a group is needed"
            )
        if stride < 1 or min(dilations) < 1:
            raise RequestError(f"native code got stride {stride}, dilations {list(dilations)}")
        if (scale is None) != (shift is None):
            raise RequestError("native code got one of scale and shift: give both or none")
        self.x = x = image(xs[0])
        channels = x.shape[1]
        self.rows = groups, channels
        self.shared = len(xs) == 1 and scale is None
        self.xs = images(xs, 1 if len(xs) == 1 else groups, x.shape, x)
        if len(xs) == 1 and not self.shared:
            # One tensor that each group normalizes in its own way.
            self.xs *= groups
        self.sizes = [f.shape[-1] for f in depthwise]
        squares = [(channels, 1, size // 2 * 2 + 1, size) for size in self.sizes]
        self.depthwise = all_coefficients(depthwise, x, squares)
        self.pointwise = all_coefficients(pointwise, x, [(channels, channels, 1, 1)] * groups)
        self.stride, self.dilations = stride, list(dilations)
        self.scale = None if scale is None else coefficients(scale, x, self.rows)
        self.shift = None if shift is None else coefficients(shift, x, self.rows)
        self.output_shape = output_shape(x, stride)

    def native(self, core: Any) -> Any:
        """These as the argument of the native code ``core``; the tensors have to outlive it."""
        return core.Units(
            *sizes_of(self.x, self.stride),
            self.sizes,
            self.dilations,
            addresses(self.depthwise),
            addresses(self.pointwise),
            addresses(self.xs),
            self.shared,
            address(self.scale),
            address(self.shift),
        )


class Gradients:
    """What the backward pass of separable units takes, and where its results go.

    Args:
        units: of the forward pass.
        zs, grads, p, q, r, into, center, factors: see
            :func:`ssfnas.ops.torch_candidates.separable_backward`.

    Attributes:
        zs: of the forward pass; none where ``q`` is None.
        total: what is added to the gradient of a shared input, which goes there; or None.
        dxs: the gradients of the inputs.
        sums: room for S0 and S1, [2, G, C], zeros where there are no pixels; None where the input
            is shared.
    """

    def __init__(
        self,
        units: Units,
        zs: Sequence[Tensor],
        grads: Sequence[Tensor],
        p: Tensor,
        q: Tensor | None,
        r: Tensor | None,
        into: Tensor | None,
        center: Tensor | None,
        factors: Tensor | None,
    ) -> None:
        x, groups = units.x, len(units.depthwise)
        if not units.shared and (into is not None or units.scale is None):
            raise RequestError(
                "native code got several inputs with `into`, or without a scale: either all "
                "groups share one source, or each normalizes an input of its own"
            )
        self.units = units
        self.grads = images(grads, groups, units.output_shape, x)
        self.p = coefficients(p, x, units.rows)
        self.center = None if center is None else coefficients(center, x, units.rows)
        self.factors = None if factors is None else coefficients(factors, x, (groups, x.shape[0]))
        self.q: Tensor | None = None
        self.r: Tensor | None = None
        self.zs: list[Tensor] = []
        if q is not None and r is not None:
            self.q, self.r = coefficients(q, x, units.rows), coefficients(r, x, units.rows)
            self.zs = images(zs, groups, units.output_shape, x)
        self.total, self.dxs = room_for_gradients(units.xs, into)
        self.sums: Tensor | None = None
        if not units.shared:
            make = self.p.new_empty if x.numel() else self.p.new_zeros
            self.sums = make((2, *units.rows))


def room_for_gradients(
    xs: Sequence[Tensor], into: Tensor | None
) -> tuple[Tensor | None, list[Tensor]]:
    """``into``, dense in channels_last, and where the gradients of ``xs`` go: there, or anew."""
    if into is None:
        return None, [torch.empty_like(x) for x in xs]
    (total,) = images([into], 1, xs[0].shape, xs[0])
    return total, [total]


def moved(dx: Tensor, into: Tensor | None) -> Tensor:
    """A gradient, in ``into`` itself where that is given but was not dense."""
    return dx if into is None or into is dx else into.copy_(dx)


def sizes_of(x: Tensor, stride: int) -> tuple[int, tuple[int, int, int, int, int]]:
    """Dtype and sizes, as the native code wants them."""
    samples, channels, height, width = x.shape
    return native.DTYPES[x.dtype], (samples, height, width, channels, stride)


def output_shape(x: Tensor, stride: int) -> torch.Size:
    """What a filter or a window makes of images [N, C, H, W]."""
    samples, channels, height, width = x.shape
    return torch.Size((samples, channels, -(-height // stride), -(-width // stride)))


def outputs(x: Tensor, stride: int, count: int) -> list[Tensor]:
    """Room for so many of that, channels_last, one behind the other."""
    samples, channels, height, width = output_shape(x, stride)
    room = x.new_empty(count * samples, height, width, channels)
    return list(room.permute(0, 3, 1, 2).tensor_split(count))


def image(x: Tensor) -> Tensor:
    """A tensor [N, C, H, W], dense, its channels next to each other."""
    if x.dim() != 4 or x.dtype not in native.DTYPES:
        raise RequestError(
            f"native code got {list(x.shape)} {x.dtype}: images are [N, C, H, W], floating point"
        )
    if x.device.type not in ("cpu", "cuda"):
        raise RequestError(
            f"native code got a tensor on {x.device}: it has to be on the CPU or an NVIDIA GPU"
        )
    return x.contiguous(memory_format=_NHWC)


def images(xs: Sequence[Tensor], count: int, shape: torch.Size, like: Tensor) -> list[Tensor]:
    """So many tensors of that shape and the dtype of ``like``, dense in channels_last."""
    if len(xs) != count:
        raise RequestError(f"native code got {len(xs)} tensors: {count} are needed")
    dtype, device = like.dtype, like.device
    for x in xs:
        if x.shape != shape or x.dtype != dtype or x.device != device:
            raise RequestError(
                f"native code got {list(x.shape)} {x.dtype} on {x.device} where {list(shape)} "
                f"{dtype} on {device} fits"
            )
    return [x.contiguous(memory_format=_NHWC) for x in xs]
