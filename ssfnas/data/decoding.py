"""Decoding image files, and image folders that are too large to be held in memory."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ssfnas.data.resizing import resize_square
from ssfnas.errors import RequestError

_GRAY_MODES = frozenset({"1", "L", "LA", "La"})
_DEEP_MODES = ("I", "F")
_EXIF_ORIENTATION = 0x0112
_THREADS = 4

Result = TypeVar("Result")


@dataclass(frozen=True)
class ImageHeader:
    """What a file says of its image: size in pixels as it is seen, and whether it is gray."""

    height: int
    width: int
    gray: bool


def _opened(path: Path, use: Callable[[Image.Image], Result]) -> Result:
    """``use`` of the opened image, with whatever goes wrong told as one line naming the file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                if image.mode.startswith(_DEEP_MODES):
                    raise RequestError(
                        f"{path}: {image.mode} pixels have more than 8 bits: convert it to 8 bits"
                    )
                return use(image)
    except RequestError:
        raise
    except Exception as error:
        # Decoders raise whatever their format's parser ran into (struct.error, SyntaxError, ...).
        reason = " ".join(str(error).split()) or type(error).__name__
        raise RequestError(
            f"{path}: cannot be decoded as an image ({reason}): repair or remove it"
        ) from error


def read_header(path: Path) -> ImageHeader:
    """Size and kind of an image file, without decoding its pixels.

    Raises:
        RequestError: a file that is not an image, or one of more than 8 bits a channel.
    """

    def header(image: Image.Image) -> ImageHeader:
        width, height = image.size
        if image.getexif().get(_EXIF_ORIENTATION, 1) in (5, 6, 7, 8):
            width, height = height, width
        return ImageHeader(height, width, image.mode in _GRAY_MODES)

    return _opened(path, header)


def decode_image(path: Path, channels: Literal[1, 3], size: int | None) -> Tensor:
    """One image, turned upright as its EXIF data say, transparency dropped.

    Args:
        path: the file.
        channels: 1 for gray, 3 for RGB.
        size: pixels a side, see :func:`ssfnas.data.resizing.resize_square`; ``None``: as it is.

    Returns:
        uint8 [H, W, C].

    Raises:
        RequestError: a file that cannot be decoded.
    """

    def pixels(image: Image.Image) -> Tensor:
        upright = ImageOps.exif_transpose(image)
        return torch.from_numpy(np.array(upright.convert("L" if channels == 1 else "RGB")))

    image = _opened(path, pixels)
    image = image.reshape(*image.shape[:2], channels)
    return image if size is None else resize_square(image[None], size)[0]


def map_threads(function: Callable[[Path], Result], paths: Iterable[Path]) -> list[Result]:
    """``function`` of every path in order, a few at a time (decoders release the interpreter)."""
    with ThreadPoolExecutor(_THREADS) as pool:
        futures = [pool.submit(function, path) for path in paths]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


@dataclass(frozen=True, eq=False)
class FolderImages:
    """Images that stay in their files and are decoded each time they are asked for.

    Attributes:
        paths: one file an image.
        height, width: of every image, in pixels.
        channels: 1 or 3.
        size: pixels a side that images are resized to; ``None``: all have the size already.
    """

    paths: tuple[Path, ...]
    height: int
    width: int
    channels: Literal[1, 3]
    size: int | None

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        """The image of that position: uint8 [H, W, C]."""
        path = self.paths[index]
        image = decode_image(path, self.channels, self.size)
        if image.shape != (self.height, self.width, self.channels):
            raise RequestError(
                f"{path}: {image.shape[1]} x {image.shape[0]} pixels, but the others have "
                f"{self.width} x {self.height}: give --image-size to resize them"
            )
        return image

    def gather(self, indices: Tensor | Iterable[int]) -> Tensor:
        """The images of those positions: uint8 [n, H, W, C]."""
        positions = [int(index) for index in indices]
        result = torch.empty(
            (len(positions), self.height, self.width, self.channels), dtype=torch.uint8
        )
        for row, index in enumerate(positions):
            result[row] = self[index]
        return result

    def subset(self, indices: Tensor | Iterable[int]) -> FolderImages:
        """The same with only those positions, in that order."""
        paths = tuple(self.paths[int(index)] for index in indices)
        return FolderImages(paths, self.height, self.width, self.channels, self.size)

    def decoded(self) -> Tensor:
        """All images in memory: uint8 [N, H, W, C]."""
        result = torch.empty((len(self), self.height, self.width, self.channels), dtype=torch.uint8)

        def fill(index: int) -> None:
            result[index] = self[index]

        with ThreadPoolExecutor(_THREADS) as pool:
            futures = [pool.submit(fill, index) for index in range(len(self))]
            try:
                for future in futures:
                    future.result()
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
        return result
