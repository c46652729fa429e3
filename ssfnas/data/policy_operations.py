"""The image operations of augmentation policies, on many 8-bit images at once.

Each takes uint8 [n, H, W, C] and one magnitude an image (float64 [n] on the CPU) and returns uint8
of the same shape. Signs, units and rounding are those of torchvision's functional operations on
uint8 tensors, so that a policy's published magnitudes mean the same here. Those take one magnitude
for all images; called image by image they are two to five times slower.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ssfnas.data.color import LUMINANCE

FILL = 128
"""Gray level of what geometric operations bring in from outside the image."""

Operation = Callable[[Tensor, Tensor], Tensor]


def identity(images: Tensor, magnitude: Tensor) -> Tensor:
    """The images themselves."""
    return images


def shear_x(images: Tensor, magnitude: Tensor) -> Tensor:
    """Each row moved left by ``magnitude`` times its distance from the top edge."""
    # About the corner: in coordinates from the center that moves the image by half its height.
    return _affine(images, b=magnitude, c=magnitude * images.shape[1] / 2)


def shear_y(images: Tensor, magnitude: Tensor) -> Tensor:
    """Each column moved up by ``magnitude`` times its distance from the left edge."""
    return _affine(images, d=magnitude, f=magnitude * images.shape[2] / 2)


def translate_x(images: Tensor, magnitude: Tensor) -> Tensor:
    """Moved right by whole pixels (``magnitude`` truncated)."""
    return _affine(images, c=-magnitude.trunc())


def translate_y(images: Tensor, magnitude: Tensor) -> Tensor:
    """Moved down by whole pixels (``magnitude`` truncated)."""
    return _affine(images, f=-magnitude.trunc())


def rotate(images: Tensor, magnitude: Tensor) -> Tensor:
    """Turned counter-clockwise about the center by ``magnitude`` degrees."""
    angle = magnitude * (math.pi / 180)
    cosine, sine = angle.cos(), angle.sin()
    return _affine(images, a=cosine, b=-sine, d=sine, e=cosine)


def _affine(images: Tensor, **changed: Tensor) -> Tensor:
    """The nearest pixel at ``(a x + b y + c, d x + e y + f)``, x and y from the image's center.

    Coefficients that are not given are those of the identity: a = e = 1, the others 0.
    """
    n, height, width, _ = images.shape
    zero = torch.zeros(n, dtype=torch.float64)
    matrix = {"a": zero + 1, "b": zero, "c": zero, "d": zero, "e": zero + 1, "f": zero, **changed}
    coefficients = torch.stack(list(matrix.values())).to(images.device, torch.float32)
    a, b, c, d, e, f = coefficients[..., None, None]  # each [n, 1, 1]
    x = torch.arange(width, device=images.device) - (width - 1) / 2
    y = (torch.arange(height, device=images.device) - (height - 1) / 2)[:, None]
    column = torch.round(a * x + b * y + c + (width - 1) / 2).long()  # [n, H, W]
    row = torch.round(d * x + e * y + f + (height - 1) / 2).long()
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    image = torch.arange(n, device=images.device)[:, None, None]
    moved = images[image, row.clamp_(0, height - 1), column.clamp_(0, width - 1)]
    return moved.masked_fill_(~inside[..., None], FILL)


def _on_pixels(values: Tensor, images: Tensor) -> Tensor:
    """Values [..., n] of the images as float32 [..., n, 1, 1, 1], where the images are."""
    return values.to(images.device, torch.float32)[..., None, None, None]


def brightness(images: Tensor, magnitude: Tensor) -> Tensor:
    """Blended with black; 0 leaves the image."""
    return _blend(images, torch.zeros((), device=images.device), magnitude)


def color(images: Tensor, magnitude: Tensor) -> Tensor:
    """Blended with its luminance; 0 leaves the image, and so does any on gray images."""
    return images if images.shape[3] == 1 else _blend(images, _gray(images), magnitude)


def contrast(images: Tensor, magnitude: Tensor) -> Tensor:
    """Blended with its mean luminance; 0 leaves the image."""
    return _blend(images, _gray(images).mean((1, 2), keepdim=True), magnitude)


def sharpness(images: Tensor, magnitude: Tensor) -> Tensor:
    """Blended with a smoothed copy (3 x 3, center weight 5 of 13); the border stays as it is."""
    _, height, width, _ = images.shape
    smooth = images.float()
    if height > 2 and width > 2:
        rows = smooth[:, :-2] + smooth[:, 1:-1] + smooth[:, 2:]
        box = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]
        inner = smooth[:, 1:-1, 1:-1]
        inner.copy_(((box + 4 * inner) / 13).round_())
    return _blend(images, smooth, magnitude)


def _gray(images: Tensor) -> Tensor:
    """Luminance rounded to whole levels: float32 [n, H, W, 1]."""
    if images.shape[3] == 1:
        return images.float()
    weights = torch.tensor(LUMINANCE, device=images.device)
    red, green, blue = (images.float() * weights).unbind(3)
    return (red + green + blue).round_()[..., None]


def _blend(images: Tensor, other: Tensor, magnitude: Tensor) -> Tensor:
    """``(1 + m) images - m other``, cut to whole levels."""
    of_image, of_other = _on_pixels(torch.stack([1 + magnitude, -magnitude]), images)
    return (images * of_image + other * of_other).clamp_(0, 255).to(torch.uint8)


def posterize(images: Tensor, magnitude: Tensor) -> Tensor:
    """Only the first ``magnitude`` bits of each level."""
    mask = (256 - 2 ** (8 - magnitude.long())).to(torch.uint8)
    return images & mask.to(images.device)[:, None, None, None]


def solarize(images: Tensor, magnitude: Tensor) -> Tensor:
    """Levels of ``magnitude`` and more inverted."""
    return torch.where(images >= _on_pixels(magnitude, images), 255 - images, images)


def auto_contrast(images: Tensor, magnitude: Tensor) -> Tensor:
    """Each channel stretched to all levels; the magnitude has no meaning."""
    low = images.amin((1, 2), keepdim=True).int()
    high = images.amax((1, 2), keepdim=True).int()
    flat = high == low
    low, high = low.masked_fill_(flat, 0), high.masked_fill_(flat, 255)
    return ((images - low) * 255 // (high - low)).to(torch.uint8)


def equalize(images: Tensor, magnitude: Tensor) -> Tensor:
    """Each channel's histogram made even; the magnitude has no meaning."""
    import torchvision.transforms.v2.functional as F

    return F.equalize(images.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def invert(images: Tensor, magnitude: Tensor) -> Tensor:
    """Every level inverted; the magnitude has no meaning."""
    return 255 - images


_MOVING = (shear_x, shear_y, translate_x, translate_y, rotate)
_BLENDING = (brightness, color, contrast, sharpness)
_OTHERS = (posterize, solarize, auto_contrast, equalize, invert)

OPERATIONS: dict[str, Operation] = {
    operation.__name__: operation for operation in (identity, *_MOVING, *_BLENDING, *_OTHERS)
}
NAMES = tuple(OPERATIONS)
SIGNED = frozenset(operation.__name__ for operation in _MOVING + _BLENDING)
"""Operations whose magnitude is negated half of the time."""
