"""Random crops of many images at once."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

_TRIES = 10


def shifted_crops(
    images: Tensor, top: Tensor, left: Tensor, flip: Tensor, padding: tuple[int, int]
) -> Tensor:
    """Crops of the size of the image out of the image padded with zeros.

    Args:
        images: uint8 [n, H, W, C].
        top, left: int64 [n] on the CPU, first row and column in the padded image.
        flip: bool [n] on the CPU, whether the crop is mirrored left to right.
        padding: zeros above and below, and left and right.

    Returns:
        [n, H, W, C] as the images.
    """
    n, height, width, _ = images.shape
    vertical, horizontal = padding
    padded = F.pad(images, (0, 0, horizontal, horizontal, vertical, vertical))
    rows = torch.arange(height) + top[:, None]  # [n, H]
    columns = torch.arange(width).expand(n, width)
    columns = torch.where(flip[:, None], width - 1 - columns, columns) + left[:, None]  # [n, W]
    rows, columns = rows.to(images.device), columns.to(images.device)
    image = torch.arange(n, device=images.device)
    return padded[image[:, None, None], rows[:, :, None], columns[:, None, :]]


def draw_resized_crops(
    n: int,
    image_size: tuple[int, int],
    generator: torch.Generator,
    *,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> Tensor:
    """Boxes of random area and shape, as the Inception networks were trained on.

    The share of the area is uniform in ``scale`` and the logarithm of width over height uniform in
    that of ``ratio``; boxes that do not fit are drawn again, up to ten times, and then the largest
    central box of an allowed shape is taken.

    Returns:
        int64 [n, 4]: top, left, height, width.
    """
    height, width = image_size
    uniform = torch.rand((4, n, _TRIES), generator=generator, dtype=torch.float64)
    area = height * width * (scale[0] + (scale[1] - scale[0]) * uniform[0])
    low, high = math.log(ratio[0]), math.log(ratio[1])
    shape = torch.exp(low + (high - low) * uniform[1])
    widths = torch.sqrt(area * shape).round().long()
    heights = torch.sqrt(area / shape).round().long()
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    first = fits.int().argmax(1, keepdim=True)  # the first that fits, 0 where none does
    box_height, box_width = heights.gather(1, first)[:, 0], widths.gather(1, first)[:, 0]
    top = (uniform[2].gather(1, first)[:, 0] * (height - box_height + 1)).long()
    left = (uniform[3].gather(1, first)[:, 0] * (width - box_width + 1)).long()
    boxes = torch.stack([top, left, box_height, box_width], 1)
    largest = (
        min(height, max(1, round(width / ratio[0]))),
        min(width, max(1, round(height * ratio[1]))),
    )
    central = torch.tensor([(height - largest[0]) // 2, (width - largest[1]) // 2, *largest])
    return torch.where(fits.any(1)[:, None], boxes, central)


def resized_crops(pixels: Tensor, boxes: Tensor, flip: Tensor) -> Tensor:
    """Boxes of the images enlarged to the size of the image, bilinearly.

    Samples never reach outside the box, as when it is cut out first and then resized.

    Args:
        pixels: float [n, C, H, W].
        boxes: int64 [n, 4] on the CPU, see :func:`draw_resized_crops`.
        flip: bool [n] on the CPU, whether the result is mirrored left to right.

    Returns:
        [n, C, H, W] as the pixels.
    """
    height, width = pixels.shape[2:]
    top, left, box_height, box_width = boxes.unbind(1)
    rows = _samples(top, box_height, height)
    columns = _samples(left, box_width, width)
    columns = torch.where(flip[:, None], columns.flip(1), columns)
    rows, columns = (
        axis.to(pixels.dtype).to(pixels.device, non_blocking=True) for axis in (rows, columns)
    )
    # [n, H, W, 2], x before y
    grid = torch.stack(torch.broadcast_tensors(columns[:, None, :], rows[:, :, None]), dim=3)
    return F.grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _samples(start: Tensor, length: Tensor, size: int) -> Tensor:
    """Where each of ``size`` pixels is sampled, from -1 (edge of the image) to 1: float64."""
    start, length = start[:, None].double(), length[:, None].double()
    place = start + (torch.arange(size, dtype=torch.float64) + 0.5) * length / size - 0.5
    place = torch.minimum(torch.maximum(place, start), start + length - 1)
    return (2 * place + 1) / size - 1
