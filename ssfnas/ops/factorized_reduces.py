"""Factorized reduces of all edges that leave a state, before their BatchNorm: matrix products.

With r = relu(x), x of one or several tensors side by side and zeros beyond odd sides, one half of
the output channels is a 1x1 convolution of the pixels r[2i, 2j], the other half one of
r[2i + 1, 2j + 1]. Both kinds of pixels side by side are one matrix A [pixels, 2C], which all edges
share, and the filters of an edge the blocks of a matrix [2C, O]: z_g = A B_g. Plain PyTorch on
every device.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def reduces_forward(
    xs: Sequence[Tensor], even: Sequence[Tensor], odd: Sequence[Tensor]
) -> list[Tensor]:
    """z_g of every edge, [N, O, ceil(H / 2), ceil(W / 2)] in channels_last.

    Args:
        xs: the parts of the state, [N, C / parts, H, W].
        even: G filters [E, C, 1, 1] of the pixels at even places.
        odd: G filters [O - E, C, 1, 1] of those at odd ones.
    """
    pixels = _pixels(xs)
    filters = _filters(even, odd, pixels.dtype)
    rows = pixels.flatten(0, 2)
    results = torch.bmm(rows.expand(len(filters), *rows.shape), filters)
    shape = (*pixels.shape[:3], results.shape[-1])
    return [z.view(shape).permute(0, 3, 1, 2) for z in results.unbind()]


def reduces_backward(
    xs: Sequence[Tensor],
    dzs: Sequence[Tensor],
    even: Sequence[Tensor],
    odd: Sequence[Tensor],
    *,
    needs_weights: bool = True,
    into: list[Tensor] | None = None,
) -> tuple[list[Tensor], list[Tensor] | None, list[Tensor] | None]:
    """Gradients of :func:`reduces_forward`.

    Args:
        xs, even, odd: as in the forward pass.
        dzs: gradients of the results.
        needs_weights: whether those of the filters are wanted.
        into: tensors like ``xs`` to add their gradients to, in place.

    Returns:
        The gradients of ``xs`` (``into`` itself where it is given), and of the filters, in the
        dtype of ``xs``.
    """
    pixels = _pixels(xs)
    rows, channels = pixels.flatten(0, 2), pixels.shape[-1] // 2
    of_rows: Tensor | None = None
    of_even: list[Tensor] = []
    of_odd: list[Tensor] = []
    for dz, filters in zip(dzs, _filters(even, odd, pixels.dtype).unbind(), strict=True):
        dz = dz.permute(0, 2, 3, 1).reshape(len(rows), -1)
        if of_rows is None:
            of_rows = dz @ filters.T
        else:
            of_rows.addmm_(dz, filters.T)
        if needs_weights:
            of_filters = dz.T @ rows
            first = len(even[0])
            of_even.append(of_filters[:first, :channels, None, None])
            of_odd.append(of_filters[first:, channels:, None, None])
    assert of_rows is not None
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
