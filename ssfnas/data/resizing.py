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
    height, width = images.shape[1:3]
    if (height, width) == (size, size):
        return images
    import torchvision.transforms.v2.functional as F

    shorter = min(height, width)
    new_height = max(size, round(height * size / shorter))
    new_width = max(size, round(width * size / shorter))
    top, left = (new_height - size) // 2, (new_width - size) // 2
    result = torch.empty((len(images), size, size, images.shape[3]), dtype=torch.uint8)
    for start in range(0, len(images), _CHUNK):
        chunk = images[start : start + _CHUNK].permute(0, 3, 1, 2)
        resized = F.resize(chunk, [new_height, new_width], antialias=True)
        cut = resized[:, :, top : top + size, left : left + size]
        result[start : start + _CHUNK] = cut.permute(0, 2, 3, 1)
    return result
