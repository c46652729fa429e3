"""Images in pages: small copies inside the page itself, with captions, in grids."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from ssfnas.pictures.markup import joined, tag

MOST_PIXELS = 160
"""Pixels a side of the copies that a page holds; larger images are reduced to it.

A copy then takes 5 to 10 KB as a JPEG, so that a page of 100 images has no more than a megabyte.
"""

_SHOWN, _LARGEST = 96, 120
"""Pixels of the longer side as the page shows it: about, of small images; at most, of others."""
_LOSSLESS = 64 * 64
"""Images of no more pixels are kept as they are: artifacts of a JPEG would show when enlarged."""
_QUALITY = 85


@dataclass(frozen=True)
class Picture:
    """One entry of a gallery.

    Attributes:
        images: what stands side by side, such as an image and its views: uint8 [H, W],
            [H, W, 1] or [H, W, 3] each.
        caption: lines below, text or markup.
        label: what is shown, for those who cannot see it.
    """

    images: Sequence[NDArray[np.uint8]]
    caption: Sequence[object]
    label: str


def reduced(pixels: NDArray[np.uint8], most: int = MOST_PIXELS) -> NDArray[np.uint8]:
    """An image of at most ``most`` pixels a side, in its own proportions; smaller ones as they are.

    Args:
        pixels: uint8 [H, W], [H, W, 1] or [H, W, 3].
        most: pixels a side of the result.

    Returns:
        uint8 [h, w] or [h, w, 3].
    """
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    height, width = pixels.shape[:2]
    longest = max(height, width)
    if longest <= most:
        return pixels
    size = max(1, round(width * most / longest)), max(1, round(height * most / longest))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX))


def image_element(pixels: NDArray[np.uint8], label: str) -> Markup:
    """An ``<img>`` that holds its image: small ones enlarged by a whole factor, with sharp edges.

    Args:
        pixels: see :func:`reduced`.
        label: what is shown, for those who cannot see it.
    """
    pixels = reduced(pixels)
    height, width = pixels.shape[:2]
    lossless = height * width <= _LOSSLESS
    stream = io.BytesIO()
    kind = "PNG" if lossless else "JPEG"
    options: dict[str, Any] = {"optimize": True} if lossless else {"quality": _QUALITY}
    Image.fromarray(pixels).save(stream, kind, **options)
    text = base64.b64encode(stream.getvalue()).decode()
    longest = max(height, width)
    factor = max(1, round(_SHOWN / longest)) if longest <= _LARGEST else _LARGEST / longest
    # Without an end tag: there is none in HTML.
    return Markup('<img src="{}" alt="{}" width="{}" height="{}"{}>').format(
        f"data:image/{kind.lower()};base64,{text}",
        label,
        max(1, round(factor * width)),
        max(1, round(factor * height)),
        Markup(' class="enlarged"') if factor > 1 else "",
    )


def gallery(pictures: Iterable[Picture]) -> Markup:
    """Images in as many columns as the screen has room for; nothing where there are none."""
    return joined(
        [
            tag("div", *entries, class_="gallery")
            if (entries := [_entry(picture) for picture in pictures])
            else None
        ]
    )


def _entry(picture: Picture) -> Markup:
    images = [image_element(pixels, picture.label) for pixels in picture.images]
    lines = [tag("span", line) for line in picture.caption]
    return tag(
        "figure",
        tag("div", *images, class_="images"),
        tag("figcaption", *lines) if lines else None,
    )
