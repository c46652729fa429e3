"""Factorized reduces of all edges that leave a state, before their BatchNorm: matrix products.

With r = relu(x), zeros beyond odd sides, one half of the output channels is a 1x1 convolution of
the pixels r[2i, 2j], the other half one of r[2i + 1, 2j + 1]. Both kinds of pixels side by side are
one matrix A [pixels, 2C], which all edges share, and the filters of an edge the blocks of a matrix
[2C, O]: z_g = A B_g. Plain PyTorch on every device.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def reduces_forward(x: Tensor, even: Sequence[Tensor], odd: Sequence[Tensor]) -> list[Tensor]:
    """z_g of every edge, [N, O, ceil(H / 2), ceil(W / 2)] in channels_last.

    Args:
        x: the state [N, C, H, W].
        even: G filters [E, C, 1, 1] of the pixels at even places.
        odd: G filters [O - E, C, 1, 1] of those at odd ones.
    """
    pixels = _pixels(x)
    filters = _filters(even, odd, x.dtype)
    rows = pixels.flatten(0, 2)
    results = torch.bmm(rows.expand(len(filters), *rows.shape), filters)
    shape = (*pixels.shape[:3], results.shape[-1])
    return [z.view(shape).permute(0, 3, 1, 2) for z in results.unbind()]


def reduces_backward(
    x: Tensor,
    dzs: Sequence[Tensor],
    even: Sequence[Tensor],
    odd: Sequence[Tensor],
    *,
    needs_weights: bool = True,
    into: Tensor | None = None,
) -> tuple[Tensor, list[Tensor] | None, list[Tensor] | None]:
    """Gradients of :func:`reduces_forward`.

    Args:
        x, even, odd: as in the forward pass.
        dzs: gradients of the results.
        needs_weights: whether those of the filters are wanted.
        into: a tensor like ``x`` to add its gradient to, in place.

    Returns:
        The gradient of ``x`` (``into`` itself where it is given), and of the filters, in the dtype
        of ``x``.
    """
    pixels = _pixels(x)
    rows, channels = pixels.flatten(0, 2), x.shape[1]
    of_rows: Tensor | None = None
    of_even: list[Tensor] = []
    of_odd: list[Tensor] = []
    for dz, filters in zip(dzs, _filters(even, odd, x.dtype).unbind(), strict=True):
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
    total = torch.zeros_like(x, memory_format=torch.channels_last) if into is None else into
    image = total.permute(0, 2, 3, 1)
    height, width = (size // 2 for size in x.shape[2:])
    image[:, ::2, ::2] += of_rows[..., :channels]
    image[:, 1::2, 1::2] += of_rows[:, :height, :width, channels:]
    return (total, of_even, of_odd) if needs_weights else (total, None, None)


def _pixels(x: Tensor) -> Tensor:
    """A, as [N, ceil(H / 2), ceil(W / 2), 2C]."""
    samples, channels, height, width = x.shape
    shape = (samples, -(-height // 2), -(-width // 2), 2 * channels)
    complete = height % 2 == 0 and width % 2 == 0
    pixels = x.new_empty(shape) if complete else x.new_zeros(shape)
    image = x.permute(0, 2, 3, 1)
    pixels[..., :channels] = image[:, ::2, ::2]
    pixels[:, : height // 2, : width // 2, channels:] = image[:, 1::2, 1::2]
    return pixels.relu_()


def _filters(even: Sequence[Tensor], odd: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    """B of every edge, [G, 2C, O]."""
    (first, channels), second = even[0].shape[:2], len(odd[0])
    filters = even[0].new_zeros(len(even), first + second, 2 * channels, dtype=dtype)
    filters[:, :first, :channels] = torch.stack([f.flatten(1) for f in even])
    filters[:, first:, channels:] = torch.stack([f.flatten(1) for f in odd])
    return filters.transpose(1, 2)
