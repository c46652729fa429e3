"""Color jitter of many images at once, each with factors and an order of its own.

Every formula is that of torchvision's functional operations on one float image.
"""

from __future__ import annotations

import torch
from torch import Tensor

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
LUMINANCE = (0.299, 0.587, 0.114)
"""Weights of red, green and blue, ITU-R BT.601."""


def to_gray(pixels: Tensor) -> Tensor:
    """Luminance of float [n, C, H, W]: [n, 1, H, W]; gray images are returned as they are."""
    if pixels.shape[1] == 1:
        return pixels
    red, green, blue = (pixels[:, channel : channel + 1] for channel in range(3))
    return (red * LUMINANCE[0]).add_(green, alpha=LUMINANCE[1]).add_(blue, alpha=LUMINANCE[2])


def jitter_color(pixels: Tensor, factors: Tensor, order: Tensor, apply: Tensor) -> Tensor:
    """Brightness, contrast, saturation and hue changed in a different order for each image.

    Brightness, contrast and saturation blend an image with black, with its mean luminance and with
    its luminance: ``f x + (1 - f) other``, clamped to 0 ... 1. Since the three differ in ``other``
    only, one pass treats all images whichever of them is theirs.

    Args:
        pixels: float [n, C, H, W] from 0 to 1; saturation and hue leave gray images as they are.
        factors: float [n, 4] on the CPU: blending factors, and the shift of hue in turns.
        order: int64 [n, 4] on the CPU, a permutation of the four operations for each image.
        apply: bool [n] on the CPU, which images are changed at all.

    Returns:
        [n, C, H, W], not shared with ``pixels``.
    """
    device, dtype = pixels.device, pixels.dtype
    color = pixels.shape[1] == 3
    pixels = pixels.clone()
    for operation in order.unbind(1):
        blended = apply & (operation != HUE)
        if not color:
            blended = blended & (operation != SATURATION)
        chosen = factors.double().gather(1, operation[:, None])[:, 0]
        factor = torch.where(blended, chosen, torch.ones_like(chosen))
        coefficients = torch.stack(
            [
                factor,
                (1 - factor) * (operation == SATURATION),
                (1 - factor) * (operation == CONTRAST),
            ]
        )
        of_image, of_gray, of_mean = coefficients.to(device, dtype)[:, :, None, None, None]
        gray = to_gray(pixels)
        other = (gray * of_gray).add_(gray.mean((2, 3), keepdim=True) * of_mean)
        pixels.mul_(of_image).add_(other).clamp_(0, 1)
        if color:
            rows = torch.nonzero(apply & (operation == HUE))[:, 0]
            if len(rows):
                shift = factors[rows, HUE].to(device, dtype)
                rows = rows.to(device)
                pixels.index_copy_(0, rows, shift_hue(pixels[rows], shift))
    return pixels


def shift_hue(pixels: Tensor, turns: Tensor) -> Tensor:
    """RGB images with their hue (of HSV) turned.

    With value v = max, chroma c = max - min and hue h in sixths of a turn, channel j is
    ``v - c clamp(min(k, 4 - k), 0, 1)``, where ``k = (n_j + h) mod 6`` and n = 5, 3, 1.

    Args:
        pixels: float [n, 3, H, W] from 0 to 1.
        turns: float [n], where the pixels are; 1 is a full turn.
    """
    red, green, blue = pixels.unbind(1)
    value = pixels.amax(1)
    chroma = value - pixels.amin(1)
    # Products with masks: choosing by torch.where is several times slower on a CPU.
    is_red = (red == value).to(pixels.dtype)
    is_green = (green == value).to(pixels.dtype) * (1 - is_red)
    is_blue = 1 - is_red - is_green
    hue = is_red * (green - blue) + is_green * (blue - red) + is_blue * (red - green)
    hue = hue / (chroma + (chroma == 0)) + 2 * is_green + 4 * is_blue
    hue = hue + 6 * turns[:, None, None]
    offsets = torch.tensor([5.0, 3.0, 1.0], dtype=pixels.dtype).to(pixels.device)
    k = hue[:, None] + offsets[:, None, None]
    k = k - 6 * torch.floor(k / 6)
    return value[:, None] - chroma[:, None] * torch.minimum(k, 4 - k).clamp_(0, 1)
