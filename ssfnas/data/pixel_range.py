"""Pixels of more than 8 bits: the range of their values, and how they become 8 bits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from ssfnas.errors import RequestError

Array = npt.NDArray[Any]
PixelRange = tuple[float, float]
"""The value that becomes 0 and the one that becomes 255."""

_CHUNK_VALUES = 1 << 24


def to_8_bits(pixels: Array, pixel_range: PixelRange) -> npt.NDArray[np.uint8]:
    """``(value - low) / (high - low) * 255`` in float64, clipped to 0 .. 255 and rounded.

    Args:
        pixels: finite numbers of any type and shape.
        pixel_range: low and high, low below high.

    Returns:
        uint8 of the same shape.
    """
    low, high = pixel_range
    result = np.empty(pixels.shape, np.uint8)
    for part in _chunks(pixels):
        # Halved: the difference of two finite numbers may be infinite.
        share = (pixels[part].astype(np.float64) / 2 - low / 2) / (high / 2 - low / 2)
        result[part] = np.rint(share.clip(0, 1) * 255)
    return result


def check_finite(pixels: Array, where: str) -> None:
    """Refuse NaN and infinity.

    Raises:
        RequestError: there is one; names ``where``, its position and the value.
    """
    if pixels.dtype.kind != "f":
        return
    for part in _chunks(pixels):
        finite = np.isfinite(pixels[part])
        if not finite.all():
            first, *rest = np.argwhere(~finite)[0].tolist()
            position = [part.start + first, *rest]
            raise RequestError(
                f"{where}: the value at {position} is {pixels[tuple(position)]}: every pixel must "
                "be a finite number"
            )


def _chunks(pixels: Array) -> Iterator[slice]:
    """Rows of a large array, a few at a time."""
    rows = max(1, _CHUNK_VALUES * len(pixels) // max(pixels.size, 1))
    for start in range(0, len(pixels), rows):
        yield slice(start, start + rows)


def check_range(pixel_range: PixelRange, where: str) -> PixelRange:
    """The range itself, where it has two ends.

    Raises:
        RequestError: all values are the same.
    """
    low, high = pixel_range
    if not low < high:
        raise RequestError(f"{where}: all training pixels are {low:g}: they show nothing")
    return pixel_range


def range_note(pixel_range: PixelRange, kind: str, *, given: bool) -> str:
    """A line that says how pixels became 8 bits."""
    low, high = pixel_range
    whose = "the range of the run's training images" if given else "the training part's own range"
    return f"pixels are {kind}; {low:.10g} to {high:.10g} became 0 to 255, {whose}"
