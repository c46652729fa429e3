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
import torchvision.transforms.v2.functional as F
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
    one, zero = torch.ones_like(magnitude), torch.zeros_like(magnitude)
    # About the corner: in coordinates from the center that moves the image by half its height.
    shift = magnitude * images.shape[1] / 2
    return _affine(images, [one, magnitude, shift, zero, one, zero])


def shear_y(images: Tensor, magnitude: Tensor) -> Tensor:
    """Each column moved up by ``magnitude`` times its distance from the left edge."""
    one, zero = torch.ones_like(magnitude), torch.zeros_like(magnitude)
    shift = magnitude * images.shape[2] / 2
    return _affine(images, [one, zero, zero, magnitude, one, shift])


def translate_x(images: Tensor, magnitude: Tensor) -> Tensor:
    """Moved right by whole pixels (``magnitude`` truncated)."""
    one, zero = torch.ones_like(magnitude), torch.zeros_like(magnitude)
    return _affine(images, [one, zero, -magnitude.trunc(), zero, one, zero])


def translate_y(images: Tensor, magnitude: Tensor) -> Tensor:
    """Moved down by whole pixels (``magnitude`` truncated)."""
    one, zero = torch.ones_like(magnitude), torch.zeros_like(magnitude)
    return _affine(images, [one, zero, zero, zero, one, -magnitude.trunc()])


def rotate(images: Tensor, magnitude: Tensor) -> Tensor:
    """Turned counter-clockwise about the center by ``magnitude`` degrees."""
    angle = magnitude * (math.pi / 180)
    cosine, sine, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    return _affine(images, [cosine, -sine, zero, sine, cosine, zero])


def _affine(images: Tensor, matrix: list[Tensor]) -> Tensor:
    """The nearest pixel at ``(a x + b y + c, d x + e y + f)``, x and y from the image's center."""
    n, height, width, _ = images.shape
    a, b, c, d, e, f = torch.stack(matrix).to(images.device, torch.float32)[:, :, None, None]
    x = torch.arange(width, device=images.device) - (width - 1) / 2
    y = (torch.arange(height, device=images.device) - (height - 1) / 2)[:, None]
    column = torch.round(a * x + b * y + c + (width - 1) / 2).long()  # [n, H, W]
    row = torch.round(d * x + e * y + f + (height - 1) / 2).long()
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    image = torch.arange(n, device=images.device)[:, None, None]
    moved = images[image, row.clamp_(0, height - 1), column.clamp_(0, width - 1)]
    return moved.masked_fill_(~inside[..., None], FILL)


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
    of_image = (1 + magnitude).to(images.device, torch.float32)[:, None, None, None]
    of_other = (-magnitude).to(images.device, torch.float32)[:, None, None, None]
    return (images * of_image + other * of_other).clamp_(0, 255).to(torch.uint8)


def posterize(images: Tensor, magnitude: Tensor) -> Tensor:
    """Only the first ``magnitude`` bits of each level."""
    mask = (256 - 2 ** (8 - magnitude.long())).to(torch.uint8)
    return images & mask.to(images.device)[:, None, None, None]


def solarize(images: Tensor, magnitude: Tensor) -> Tensor:
    """Levels of ``magnitude`` and more inverted."""
    threshold = magnitude.to(images.device, torch.float32)[:, None, None, None]
    return torch.where(images >= threshold, 255 - images, images)


def auto_contrast(images: Tensor, magnitude: Tensor) -> Tensor:
    """Each channel stretched to all levels; the magnitude has no meaning."""
    low = images.amin((1, 2), keepdim=True).int()
    high = images.amax((1, 2), keepdim=True).int()
    flat = high == low
    low, high = low.masked_fill_(flat, 0), high.masked_fill_(flat, 255)
    return ((images - low) * 255 // (high - low)).to(torch.uint8)


def equalize(images: Tensor, magnitude: Tensor) -> Tensor:
    """Each channel's histogram made even; the magnitude has no meaning."""
    return F.equalize(images.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def invert(images: Tensor, magnitude: Tensor) -> Tensor:
    """Every level inverted; the magnitude has no meaning."""
    return 255 - images


OPERATIONS: dict[str, Operation] = {
    "identity": identity,
    "shear_x": shear_x,
    "shear_y": shear_y,
    "translate_x": translate_x,
    "translate_y": translate_y,
    "rotate": rotate,
    "brightness": brightness,
    "color": color,
    "contrast": contrast,
    "sharpness": sharpness,
    "posterize": posterize,
    "solarize": solarize,
    "auto_contrast": auto_contrast,
    "equalize": equalize,
    "invert": invert,
}
NAMES = tuple(OPERATIONS)
SIGNED = frozenset(NAMES[1:10])
"""Operations whose magnitude is negated half of the time."""
