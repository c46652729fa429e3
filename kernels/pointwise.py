"""A cell's entry on GPUs: matrix products of pixels, and Triton for what is done to each value.

Definitions: ``ssfnas.ops.torch_pointwise``. Images are brought to channels_last, and so are
results. Nothing is widened in memory: statistics are one read of z, the gradient of z is formed in
one pass, and that of the weight adds up inside the product.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ssfnas.kernels.mixed_norm_sum import norm_sum_forward
from ssfnas.kernels.mixed_norm_sum_reductions import norm_statistics
from ssfnas.kernels.products import sums_of_products


def pointwise_forward(xs: Sequence[Tensor], weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """z = W relu(x) [N, O, H, W], and the mean and biased variance [1, O] of its channels.

    Args:
        xs: the T parts of x, [N, I, H, W] each.
        weight: [O, T I, 1, 1], any floating dtype.
    """
    pixels = torch.cat([_pixels(x) for x in xs], dim=1)
    z = _image(pixels.relu_() @ _matrix(weight, pixels).T, xs[0])
    return z, *norm_statistics([z], [True])


def pointwise_backward(
    xs: Sequence[Tensor],
    z: Tensor,
    grad: Tensor,
    p: Tensor,
    q: Tensor | None,
    r: Tensor | None,
    weight: Tensor,
    *,
    needs_x: bool = True,
    needs_weight: bool = True,
    into: Sequence[Tensor] | None = None,
) -> tuple[list[Tensor] | None, Tensor | None]:
    """Gradients of ``xs`` and of ``weight``, from dz = p grad + q z + r.

    Args:
        xs, weight: as in the forward pass.
        z: its first result; not looked at where ``q`` is None.
        grad: in the shape of ``z``.
        p, q, r: [1, O]; ``q`` and ``r`` may be None, for zeros.
        needs_x, needs_weight: which gradients are wanted.
        into: tensors like ``xs``, left as they are: the gradients of ``xs`` are added to them.
    """
    if q is None or r is None:
        dz = norm_sum_forward([grad], p, torch.zeros_like(p[0]))
    else:
        dz = norm_sum_forward([grad, z], torch.cat([p, q]), r[0])
    of_pixels, parts = _pixels(dz), [_pixels(x) for x in xs]
    dxs = d_weight = None
    if needs_weight:
        sums = [sums_of_products(of_pixels[None], part.relu()[None])[0] for part in parts]
        d_weight = torch.cat(sums, dim=1)[:, :, None, None]
    if needs_x:
        filters = _matrix(weight, of_pixels).tensor_split(len(xs), dim=1)
        dxs = [
            _image(torch.ops.aten.threshold_backward(of_pixels @ own, part, 0), x)
            for own, part, x in zip(filters, parts, xs, strict=True)
        ]
        if into is not None:
            torch._foreach_add_(dxs, list(into))
    return dxs, d_weight


def _pixels(x: Tensor) -> Tensor:
    """[N, C, H, W] as [pixels, C]; without a copy where it is channels_last."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def _matrix(weight: Tensor, like: Tensor) -> Tensor:
    """[O, I], in the dtype of the images."""
    return weight.flatten(1).to(like.dtype)


def _image(pixels: Tensor, like: Tensor) -> Tensor:
    """[pixels, C] as [N, C, H, W], channels_last, without a copy."""
    samples, _, height, width = like.shape
    return pixels.view(samples, height, width, pixels.shape[1]).permute(0, 3, 1, 2)
