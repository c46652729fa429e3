"""Candidates of a source in plain PyTorch: separable convolutions and pools, and their gradients.

A *group* g is one separable unit: ReLU, depthwise filter, 1x1 filter. Groups either share one
source, or have each an input of its own that is normalized on the way in:

    u_g = scale_gc x_g + shift_gc        (x itself where no scale is given)
    D_g = depthwise_g * relu(u_g),   z_g = pointwise_g D_g

The backward pass takes the gradient of z_g as dz_g = p_gc f_gn grad_g + q_gc z_g + r_gc, which is
what a normalization and a sum over candidates leave of it (:mod:`ssfnas.ops.norm_coefficients`),
so that nobody has to write dz_g out.

All tensors are [N, C, H, W]; coefficients and statistics [G, C], float32 (float64 for float64).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ssfnas.kernels.layout import accumulator

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
        depthwise: G filters [C, 1, k, k], k odd; padded to keep ceil(H / stride).
        pointwise: G filters [C, C, 1, 1].
        stride: of the depthwise convolutions.
        dilations: G, of the depthwise convolutions.
        scale, shift: [G, C], or both None.
    """
    zs = []
    for g, (filters, mixing) in enumerate(zip(depthwise, pointwise, strict=True)):
        x = _normalized(xs[g if len(xs) > 1 else 0], scale, shift, g).relu()
        zs.append(
            F.conv2d(depthwise_convolution(x, filters, stride, dilations[g]), mixing.to(x.dtype))
        )
    return zs, *_moments(zs)


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
    center: Tensor | None = None,
    factors: Tensor | None = None,
) -> tuple[list[Tensor], Statistics | None, list[Tensor] | None, list[Tensor] | None]:
    """Gradients of the inputs and the filters of :func:`separable_forward`.

    Args:
        xs, depthwise, pointwise, stride, dilations, scale, shift: as they were in the forward pass.
        zs: its first result; not looked at where ``q`` is None.
        grads: G tensors in the shape of ``zs``; the same one may stand for several groups.
        p, q, r: [G, C]: dz = p f grad + q z + r; ``q`` and ``r`` may be None, for zeros.
        needs_weights: whether the filters' gradients are wanted.
        into: with one shared source, a tensor to add its gradient to, in place.
        center: without a shared source, [G, C], zeros where None.
        factors: f [G, N], ones where None.

    Returns:
        The gradient of the one source (``into`` itself where it is given), or of every u_g; for
        the latter S0 = sum du_g and S1 = sum du_g (x_g - center_g), each [G, C]; the gradients of
        the depthwise and of the 1x1 filters in their shapes, in the dtype of sums.
    """
    shared = scale is None
    total, dxs, sums0, sums1, d_depthwise, d_pointwise = into, [], [], [], [], []
    for g, (filters, mixing) in enumerate(zip(depthwise, pointwise, strict=True)):
        x = xs[g if len(xs) > 1 else 0]
        u = _normalized(x, scale, shift, g)
        rectified = u.relu()
        dz = _row(p, g) * grads[g]
        if factors is not None:
            dz = dz * factors[g].view(-1, 1, 1, 1)
        if q is not None and r is not None:
            dz = dz + _row(q, g) * zs[g] + _row(r, g)
        dz = dz.to(x.dtype)
        dd = F.conv2d(dz, mixing.to(x.dtype).transpose(0, 1))
        padding = dilations[g] * (filters.shape[-1] // 2)
        du, df, _ = torch.ops.aten.convolution_backward(
            dd,
            rectified,
            filters.to(x.dtype),
            None,
            [stride, stride],
            [padding, padding],
            [dilations[g], dilations[g]],
            False,
            [0, 0],
            x.shape[1],
            [True, needs_weights, False],
        )
        du = du * (u > 0)
        if needs_weights:
            d = depthwise_convolution(rectified, filters, stride, dilations[g])
            d_depthwise.append(df.to(accumulator(x.dtype)))
            mixed = torch.einsum("nohw,nihw->oi", _wide(dz), _wide(d))
            d_pointwise.append(mixed[:, :, None, None])
        if shared:
            total = du if total is None else total.add_(du)
        else:
            dxs.append(du)
            sums0.append(_wide(du).sum((0, 2, 3)))
            shifted = _wide(x) if center is None else _wide(x) - _row(center, g)
            sums1.append((_wide(du) * shifted).sum((0, 2, 3)))
    weights = (d_depthwise, d_pointwise) if needs_weights else (None, None)
    if shared:
        assert total is not None
        return [total], None, *weights
    return dxs, (torch.stack(sums0), torch.stack(sums1)), *weights


def pools_forward(x: Tensor, stride: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """3x3 maxima and averages (of the pixels inside), and their mean and variance [2, C].

    Args:
        x: [N, C, H, W].
        stride: of the windows.
    """
    largest = F.max_pool2d(x, 3, stride, 1)
    average = F.avg_pool2d(x, 3, stride, 1, count_include_pad=False)
    return largest, average, *_moments([largest, average])


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
    """
    total = into
    if d_largest is not None:
        _, indices = F.max_pool2d(x, 3, stride, 1, return_indices=True)
        dx = torch.ops.aten.max_pool2d_with_indices_backward(
            d_largest, x, [3, 3], [stride, stride], [1, 1], [1, 1], False, indices
        )
        total = dx if total is None else total.add_(dx)
    if d_average is not None:
        dx = torch.ops.aten.avg_pool2d_backward(
            d_average, x, [3, 3], [stride, stride], [1, 1], False, False, None
        )
        total = dx if total is None else total.add_(dx)
    assert total is not None
    return total


def channel_moments(x: Tensor) -> Statistics:
    """Mean and biased variance [C] of [N, C, H, W], in the dtype of sums."""
    wide = _wide(x)
    mean = wide.mean((0, 2, 3))
    return mean, (wide - mean.view(1, -1, 1, 1)).square().mean((0, 2, 3))


def _moments(xs: Sequence[Tensor]) -> Statistics:
    mean, variance = zip(*map(channel_moments, xs), strict=True)
    return torch.stack(mean), torch.stack(variance)


def _wide(x: Tensor) -> Tensor:
    return x.to(accumulator(x.dtype))


def _row(values: Tensor, g: int) -> Tensor:
    return values[g].view(1, -1, 1, 1)


def _normalized(x: Tensor, scale: Tensor | None, shift: Tensor | None, g: int) -> Tensor:
    if scale is None or shift is None:
        return x
    return (_row(scale, g) * x + _row(shift, g)).to(x.dtype)


def depthwise_convolution(x: Tensor, filters: Tensor, stride: int, dilation: int) -> Tensor:
    """Padded to keep ceil(H / stride) rows; filters in the dtype of ``x``."""
    padding = dilation * (filters.shape[-1] // 2)
    return F.conv2d(x, filters.to(x.dtype), None, stride, padding, dilation, x.shape[1])
