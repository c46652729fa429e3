"""Arguments of native candidate operations, checked and as raw memory wants them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ssfnas.errors import RequestError
from ssfnas.ops import native
from ssfnas.ops.native import address, addresses, coefficients

_NHWC = torch.channels_last


@dataclass(frozen=True)
class Units:
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
    ) -> Units:
        """The arguments checked, dense, and in the dtypes that the loops read."""
        groups = len(depthwise)
        if not groups or len(pointwise) != groups or len(dilations) != groups:
            raise RequestError(
                f"native code got {groups} depthwise filters, {len(pointwise)} 1x1 filters and "
                f"{len(dilations)} dilations: one of each a group is needed"
            )
        if stride < 1 or min(dilations) < 1:
            raise RequestError(f"native code got stride {stride}, dilations {list(dilations)}")
        x = image(xs[0])
        channels = x.shape[1]
        if (scale is None) != (shift is None):
            raise RequestError("native code got one of scale and shift: give both or none")
        if scale is not None and shift is not None:
            scale, shift = (coefficients(row, x, (groups, channels)) for row in (scale, shift))
        return Units(
            images(xs, 1 if len(xs) == 1 else groups, x.shape, x),
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

    @property
    def rows(self) -> tuple[int, int]:
        """Shape of coefficients and statistics."""
        return len(self.depthwise), self.xs[0].shape[1]

    @property
    def output_shape(self) -> torch.Size:
        """Of every z."""
        return output_shape(self.xs[0].shape, self.stride)

    def output(self) -> Tensor:
        """Room for a z."""
        return empty(self.output_shape, self.xs[0])

    def native(self, core: Any) -> Any:
        """These as the argument of the native code ``core``; the tensors have to outlive it."""
        x = self.xs[0]
        shared = len(self.xs) == 1 and self.scale is None
        dtype, sizes = sizes_of(x, self.stride)
        return core.Units(
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


@dataclass(frozen=True)
class Gradients:
    """What the backward pass of separable units takes, and where its results go.

    Attributes:
        units: one input a group, or one that all share.
        zs: of the forward pass; none where ``q`` is None.
        grads: G gradients.
        p, q, r: [G, C].
        total: what is added to the gradient of a shared input, which goes there; or None.
        dxs: the gradients of the inputs.
        sums: room for S0 and S1, [2, G, C], zeros where there are no pixels; None where the input
            is shared.
    """

    units: Units
    zs: list[Tensor]
    grads: list[Tensor]
    p: Tensor
    q: Tensor | None
    r: Tensor | None
    total: Tensor | None
    dxs: list[Tensor]
    sums: Tensor | None

    @staticmethod
    def of(
        units: Units,
        zs: Sequence[Tensor],
        grads: Sequence[Tensor],
        p: Tensor,
        q: Tensor | None,
        r: Tensor | None,
        into: Tensor | None,
    ) -> Gradients:
        """The arguments checked, dense, and in the dtypes that the loops read."""
        x, groups = units.xs[0], len(units.depthwise)
        shared = len(units.xs) == 1 and units.scale is None
        if not shared and len(units.xs) == 1:
            # One tensor that each group normalizes in its own way.
            units = replace(units, xs=[x] * groups)
        if not shared and (into is not None or units.scale is None):
            raise RequestError(
                "native code got several inputs with `into`, or without a scale: either all "
                "groups share one source, or each normalizes an input of its own"
            )
        p = coefficients(p, x, units.rows)
        if q is None or r is None:
            q = r = None
            zs = []
        else:
            q, r = coefficients(q, x, units.rows), coefficients(r, x, units.rows)
            zs = images(zs, groups, units.output_shape, x)
        total = None if into is None else images([into], 1, x.shape, x)[0]
        sums = None
        if not shared:
            sums = p.new_empty(2, *units.rows) if x.numel() else p.new_zeros(2, *units.rows)
        return Gradients(
            units,
            list(zs),
            images(grads, groups, units.output_shape, x),
            p,
            q,
            r,
            total,
            [torch.empty_like(x) if total is None else total for x in units.xs],
            sums,
        )

    def inputs(self, into: Tensor | None) -> tuple[list[Tensor], tuple[Tensor, Tensor] | None]:
        """The gradients of the inputs, in ``into`` where that is given, and S0 and S1."""
        if into is not None and into is not self.dxs[0]:
            return [into.copy_(self.dxs[0])], None
        return self.dxs, None if self.sums is None else (self.sums[0], self.sums[1])


def sizes_of(x: Tensor, stride: int) -> tuple[int, tuple[int, int, int, int, int]]:
    """Dtype and sizes, as the native code wants them."""
    images, channels, height, width = x.shape
    return native.DTYPES[x.dtype], (images, height, width, channels, stride)


def output_shape(shape: torch.Size, stride: int) -> torch.Size:
    """What a filter or a window makes of images [N, C, H, W]."""
    return torch.Size((*shape[:2], *(-(-size // stride) for size in shape[2:])))


def empty(shape: Sequence[int], like: Tensor) -> Tensor:
    """Room for images, channels_last."""
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=_NHWC)


def image(x: Tensor) -> Tensor:
    """A tensor [N, C, H, W], dense, its channels next to each other."""
    if x.dim() != 4 or x.dtype not in native.DTYPES:
        raise RequestError(
            f"native code got {list(x.shape)} {x.dtype}: images are [N, C, H, W], floating point"
        )
    return x.contiguous(memory_format=_NHWC)


def images(xs: Sequence[Tensor], count: int, shape: torch.Size, like: Tensor) -> list[Tensor]:
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
