"""Factorized reduces of all edges that leave a state in plain PyTorch, before their BatchNorm.

With r = relu(x), x of one or several tensors side by side and zeros beyond odd sides, the first
output channels are a 1x1 convolution of the pixels r[2i, 2j], the others one of r[2i + 1, 2j + 1].
Both kinds of pixels side by side are one matrix A [pixels, 2C], which all edges share, and the
filters of an edge the blocks of a matrix [2C, O]: z_g = A B_g.

The backward pass takes the gradient of z_g as dz_g = p_gc f_gn grad_g + q_gc z_g + r_gc
(:mod:`ssfnas.ops.norm_coefficients`); coefficients and statistics are [G, O], float32 (float64 for
float64).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ssfnas.kernels.layout import accumulator


def reduces_forward(
    xs: Sequence[Tensor], even: Sequence[Tensor], odd: Sequence[Tensor]
) -> tuple[list[Tensor], Tensor, Tensor]:
    """z_g of every edge, and the mean and biased variance [G, O] of each of its channels.

    Args:
        xs: the parts of the state, [N, C / parts, H, W].
        even: G filters [E, C, 1, 1] of the pixels at even places, any floating dtype.
        odd: G filters [O - E, C, 1, 1] of those at odd ones.

    Returns:
        z_g [N, O, ceil(H / 2), ceil(W / 2)] in channels_last, and the statistics.
    """
    zs = products(xs, even, odd)
    wide = torch.stack([z.permute(0, 2, 3, 1).flatten(0, 2) for z in zs]).to(
        accumulator(zs[0].dtype)
    )
    mean = wide.mean(1)
    return zs, mean, (wide - mean[:, None]).square().mean(1)


def reduces_backward(
    xs: Sequence[Tensor],
    zs: Sequence[Tensor],
    grads: Sequence[Tensor],
    p: Tensor,
    q: Tensor | None,
    r: Tensor | None,
    even: Sequence[Tensor],
    odd: Sequence[Tensor],
    *,
    needs_x: bool = True,
    needs_weights: bool = True,
    into: list[Tensor] | None = None,
    factors: Tensor | None = None,
) -> tuple[list[Tensor] | None, list[Tensor] | None, list[Tensor] | None]:
    """Gradients of :func:`reduces_forward`.

    Args:
        xs, even, odd: as in the forward pass.
        zs: its first result; not looked at where ``q`` is None.
        grads: G tensors in the shape of ``zs``; the same one may stand for several edges.
        p, q, r: [G, O]: dz = p f grad + q z + r; ``q`` and ``r`` may be None, for zeros.
        needs_x, needs_weights: which gradients are wanted.
        into: tensors like ``xs`` to add their gradients to, in place.
        factors: f [G, N], ones where None.

    Returns:
        The gradients of ``xs`` (``into`` itself where it is given), None where they are not wanted;
        and of the filters ``even`` and ``odd`` in their shapes, in the dtype of sums.
    """
    dzs = []
    for g, grad in enumerate(grads):
        dz = _row(p, g) * grad
        if factors is not None:
            dz = dz * factors[g].view(-1, 1, 1, 1)
        if q is not None and r is not None:
            dz = dz + _row(q, g) * zs[g] + _row(r, g)
        dzs.append(dz.to(grad.dtype))
    return product_gradients(
        xs, dzs, even, odd, needs_x=needs_x, needs_weights=needs_weights, into=into
    )


def products(xs: Sequence[Tensor], even: Sequence[Tensor], odd: Sequence[Tensor]) -> list[Tensor]:
    """z_g of every edge, see :func:`reduces_forward`."""
    pixels = _pixels(xs)
    filters = _filters(even, odd, pixels.dtype)
    rows = pixels.flatten(0, 2)
    results = torch.bmm(rows.expand(len(filters), *rows.shape), filters)
    shape = (*pixels.shape[:3], results.shape[-1])
    return [z.view(shape).permute(0, 3, 1, 2) for z in results.unbind()]


def product_gradients(
    xs: Sequence[Tensor],
    dzs: Sequence[Tensor],
    even: Sequence[Tensor],
    odd: Sequence[Tensor],
    *,
    needs_x: bool,
    needs_weights: bool,
    into: list[Tensor] | None,
) -> tuple[list[Tensor] | None, list[Tensor] | None, list[Tensor] | None]:
    """What :func:`reduces_backward` returns, from the gradients of the results themselves."""
    pixels = _pixels(xs)
    rows, channels = pixels.flatten(0, 2), pixels.shape[-1] // 2
    wide = accumulator(rows.dtype)
    of_rows: Tensor | None = None
    of_even: list[Tensor] = []
    of_odd: list[Tensor] = []
    for dz, filters in zip(dzs, _filters(even, odd, pixels.dtype).unbind(), strict=True):
        dz = dz.permute(0, 2, 3, 1).flatten(0, 2)
        if not needs_x:
            pass
        elif of_rows is None:
            of_rows = dz @ filters.T
        else:
            of_rows.addmm_(dz, filters.T)
        if needs_weights:
            of_filters = (dz.T @ rows).to(wide)
            first = len(even[0])
            of_even.append(of_filters[:first, :channels, None, None])
            of_odd.append(of_filters[first:, channels:, None, None])
    totals: list[Tensor] | None = None
    if of_rows is not None:
        of_rows = torch.ops.aten.threshold_backward(of_rows, rows, 0).view(pixels.shape)
        totals = into or [torch.zeros_like(x, memory_format=torch.channels_last) for x in xs]
        for total, even_pixels, odd_pixels in zip(totals, *_parts(of_rows, len(xs)), strict=True):
            image = total.permute(0, 2, 3, 1)
            height, width = (size // 2 for size in total.shape[2:])
            image[:, ::2, ::2] += even_pixels
            image[:, 1::2, 1::2] += odd_pixels[:, :height, :width]
    return (totals, of_even, of_odd) if needs_weights else (totals, None, None)


def _pixels(xs: Sequence[Tensor]) -> Tensor:
    """A, as [N, ceil(H / 2), ceil(W / 2), 2C]."""
    first = xs[0]
    samples, channels, height, width = first.shape
    shape = (samples, -(-height // 2), -(-width // 2), 2 * len(xs) * channels)
    complete = height % 2 == 0 and width % 2 == 0
    pixels = first.new_empty(shape) if complete else first.new_zeros(shape)
    for x, even_pixels, odd_pixels in zip(xs, *_parts(pixels, len(xs)), strict=True):
        image = x.permute(0, 2, 3, 1)
        even_pixels[:] = image[:, ::2, ::2]
        odd_pixels[:, : height // 2, : width // 2] = image[:, 1::2, 1::2]
    return pixels.relu_()


def _parts(pixels: Tensor, count: int) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    """Of A, what belongs to each tensor: even pixels, and odd ones."""
    parts = pixels.tensor_split(2 * count, dim=-1)
    return parts[:count], parts[count:]


def _filters(even: Sequence[Tensor], odd: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    """B of every edge, [G, 2C, O]."""
    (first, channels), second = even[0].shape[:2], len(odd[0])
    filters = even[0].new_zeros(len(even), first + second, 2 * channels, dtype=dtype)
    filters[:, :first, :channels] = torch.stack([f.flatten(1) for f in even])
    filters[:, first:, channels:] = torch.stack([f.flatten(1) for f in odd])
    return filters.transpose(1, 2)


def _row(values: Tensor, g: int) -> Tensor:
    return values[g].view(1, -1, 1, 1)
