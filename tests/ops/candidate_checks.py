"""Separable units and their inputs, and what they compute by plain autograd, in float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from op_checks import draw
from torch import Tensor
from torch.nn import functional as F

from ssfnas.kernels.layout import accumulator

KINDS = ((3, 1), (5, 1), (3, 2), (5, 2))  # size, dilation


@dataclass(frozen=True)
class Units:
    """Arguments of both passes."""

    xs: list[Tensor]
    depthwise: list[Tensor]
    pointwise: list[Tensor]
    stride: int
    dilations: list[int]
    scale: Tensor | None
    shift: Tensor | None
    grads: list[Tensor]
    p: Tensor
    q: Tensor | None
    r: Tensor | None
    center: Tensor | None
    factors: Tensor | None

    @property
    def keywords(self):
        return {
            "stride": self.stride,
            "dilations": self.dilations,
            "scale": self.scale,
            "shift": self.shift,
        }

    def double(self) -> Units:
        def wide(values):
            return None if values is None else values.double().cpu()

        def all_wide(values):
            return [value.double().cpu() for value in values]

        return replace(
            self,
            xs=all_wide(self.xs),
            depthwise=all_wide(self.depthwise),
            pointwise=all_wide(self.pointwise),
            grads=all_wide(self.grads),
            **{
                name: wide(getattr(self, name))
                for name in ("scale", "shift", "p", "q", "r", "center", "factors")
            },
        )

    def run(self, forward, backward, needs_weights=True, into=None):
        """All results of both passes in one list."""
        zs, mean, var = forward(self.xs, self.depthwise, self.pointwise, **self.keywords)
        dxs, sums, *filters = backward(
            self.xs,
            zs,
            self.grads,
            self.p,
            self.q,
            self.r,
            self.depthwise,
            self.pointwise,
            **self.keywords,
            needs_weights=needs_weights,
            into=into,
            center=self.center,
            factors=self.factors,
        )
        assert (sums is None) == (self.scale is None)
        assert [found is None for found in filters] == [not needs_weights] * 2
        of_filters = [*filters[0], *filters[1]] if needs_weights else []
        return [*zs, mean, var, *dxs, *(sums or ()), *of_filters]


def make_units(
    shape: Sequence[int],
    *,
    kinds: Sequence[tuple[int, int]] = KINDS,
    stride: int = 1,
    shared: bool = True,
    affine: bool = True,
    factors: bool = False,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> Units:
    """Units of those sizes and dilations on images of that shape, in channels_last."""
    n, c, h, w = shape
    wide, groups = accumulator(dtype), len(kinds)
    seed = 1000 * seed

    def images(count, *size):
        nonlocal seed
        seed += count
        drawn = [draw(*size, seed=seed - k, dtype=dtype) for k in range(count)]
        return [x.contiguous(memory_format=torch.channels_last) for x in drawn]

    def values(*size):
        nonlocal seed
        seed += 1
        return draw(*size, seed=seed).to(wide)

    return Units(
        xs=images(1 if shared else groups, *shape),
        depthwise=[values(c, 1, k, k) / k for k, _ in kinds],
        pointwise=[values(c, c, 1, 1) / c**0.5 for _ in kinds],
        stride=stride,
        dilations=[dilation for _, dilation in kinds],
        scale=None if shared else values(groups, c),
        shift=None if shared else values(groups, c),
        grads=images(groups, n, c, -(-h // stride), -(-w // stride)),
        p=values(groups, c),
        q=values(groups, c) if affine else None,
        r=values(groups, c) if affine else None,
        center=None if shared or not affine else values(groups, c),
        # Paths of some images are dropped.
        factors=values(groups, n).clamp_min(0) if factors else None,
    )


def by_autograd(units: Units, needs_weights: bool = True, into: Tensor | None = None):
    """What :meth:`Units.run` gives, from the definitions and autograd alone."""
    zs, means, variances, dus, sums0, sums1, d_depthwise, d_pointwise = ([] for _ in range(8))
    total = torch.zeros_like(units.xs[0]) if into is None else into.clone()
    for g, (filters, mixing) in enumerate(zip(units.depthwise, units.pointwise, strict=True)):
        x = units.xs[g if len(units.xs) > 1 else 0]
        u = x if units.scale is None else _row(units.scale, g) * x + _row(units.shift, g)
        leaves = [leaf.detach().requires_grad_() for leaf in (u, filters, mixing)]
        padded = F.pad(leaves[0].relu(), [units.dilations[g] * (filters.shape[-1] // 2)] * 4)
        inner = F.conv2d(padded, leaves[1], None, units.stride, 0, units.dilations[g], x.shape[1])
        z = torch.einsum("oi,nihw->nohw", leaves[2][:, :, 0, 0], inner)
        dz = _row(units.p, g) * units.grads[g]
        if units.factors is not None:
            dz = dz * units.factors[g].view(-1, 1, 1, 1)
        if units.q is not None:
            dz = dz + _row(units.q, g) * z.detach() + _row(units.r, g)
        du, df, dw = torch.autograd.grad(z, leaves, dz)
        flat = z.detach().transpose(0, 1).flatten(1)
        zs.append(z.detach())
        means.append(flat.mean(1))
        variances.append(flat.var(1, correction=0))
        dus.append(du)
        total += du
        sums0.append(du.sum((0, 2, 3)))
        shifted = x if units.center is None else x - _row(units.center, g)
        sums1.append((du * shifted).sum((0, 2, 3)))
        d_depthwise.append(df)
        d_pointwise.append(dw)
    of_inputs = [total] if units.scale is None else [*dus, torch.stack(sums0), torch.stack(sums1)]
    of_filters = [*d_depthwise, *d_pointwise] if needs_weights else []
    return [*zs, torch.stack(means), torch.stack(variances), *of_inputs, *of_filters]


def pooled_by_loops(x: Tensor, stride: int, d_largest=None, d_average=None):
    """Maxima, averages, and the gradient of the source, window by window."""
    n, c, h, w = x.shape
    largest, average = (x.new_zeros(n, c, -(-h // stride), -(-w // stride)) for _ in range(2))
    dx = torch.zeros_like(x)
    for image in range(n):
        for channel in range(c):
            for y in range(largest.shape[2]):
                for i in range(largest.shape[3]):
                    at = (image, channel, y, i)
                    inside = [
                        (image, channel, row, column)
                        for row in range(max(0, y * stride - 1), min(h, y * stride + 2))
                        for column in range(max(0, i * stride - 1), min(w, i * stride + 2))
                    ]
                    values = [float(x[place]) for place in inside]
                    largest[at], average[at] = max(values), sum(values) / len(values)
                    if d_largest is not None:
                        dx[inside[values.index(max(values))]] += d_largest[at]
                    if d_average is not None:
                        for place in inside:
                            dx[place] += d_average[at] / len(values)
    return largest, average, dx


def _row(values: Tensor, g: int) -> Tensor:
    return values[g].view(1, -1, 1, 1)
