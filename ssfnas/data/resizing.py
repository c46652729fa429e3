"""Resizing 8-bit images, one way for every source."""

from __future__ import annotations

import torch
from torch import Tensor

_CHUNK = 1024


def resize_square(images: Tensor, size: int) -> Tensor:
    """Images of ``size`` x ``size`` pixels: the shorter side resized to it, the middle cut out.

    Bilinear with antialiasing, rounded to 8 bits.

    Args:
        images: uint8 [N, H, W, C] on the CPU.
        size: pixels a side of the result.

    Returns:
        uint8 [N, size, size, C]; the argument itself where it has that size already.
    """
    return resize_and_cut(images, size, size)


def resize_and_cut(images: Tensor, height: int, width: int) -> Tensor:
    """Images of ``height`` x ``width`` pixels, in their own proportions: see :func:`resize_square`.

    Resized so that both sides are covered and one of them just so; the middle is cut out.

    Args:
        images: uint8 [N, H, W, C] on the CPU.
        height, width: of the result, in pixels.

    Returns:
        uint8 [N, height, width, C]; the argument itself where it has that size already.
    """
    own_height, own_width = images.shape[1:3]
    if (own_height, own_width) == (height, width):
        return images
    import torchvision.transforms.v2.functional as F

    # By the side that needs the larger factor.
    tall = height * own_width >= width * own_height
    size, own = (height, own_height) if tall else (width, own_width)
    new_height = max(height, round(own_height * size / own))
    new_width = max(width, round(own_width * size / own))
    top, left = (new_height - height) // 2, (new_width - width) // 2
    result = torch.empty((len(images), height, width, images.shape[3]), dtype=torch.uint8)
    for start in range(0, len(images), _CHUNK):
        chunk = images[start : start + _CHUNK].permute(0, 3, 1, 2)
        resized = F.resize(chunk, [new_height, new_width], antialias=True)
        cut = resized[:, :, top : top + height, left : left + width]
        result[start : start + _CHUNK] = cut.permute(0, 2, 3, 1)
    return result
