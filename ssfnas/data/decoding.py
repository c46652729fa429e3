"""Decoding image files, and image folders that are too large to be held in memory."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

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

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """The image of a file; whatever goes wrong with it is told as one line naming the file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                if image.mode.startswith(_DEEP_MODES):
                    raise RequestError(
                        f"{path}: {image.mode} pixels have more than 8 bits: convert it to 8 bits"
                    )
                yield image
    except RequestError:
        raise
    except Exception as error:
        # Decoders raise whatever their format's parser ran into (struct.error, SyntaxError, ...).
        reason = " ".join(str(error).split()) or type(error).__name__
        raise RequestError(
            f"{path}: cannot be decoded as an image ({reason}): repair or remove it"
        ) from error


def read_shape(path: Path) -> tuple[int, int, int]:
    """Height, width (as the image is seen) and channels: 1 for gray, else 3; no pixel is decoded.

    Raises:
        RequestError: a file that is not an image, or one of more than 8 bits a channel.
    """
    with _opened(path) as image:
        width, height = image.size
        if image.getexif().get(_EXIF_ORIENTATION, 1) in (5, 6, 7, 8):
            width, height = height, width
        return height, width, 1 if image.mode in _GRAY_MODES else 3


def map_threads(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """``function`` of every item in order, a few at a time (decoders release the interpreter)."""
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(function, items))


@dataclass(frozen=True, eq=False)
class FolderImages:
    """Images that stay in their files and are decoded each time they are asked for.

    To read them is to index a tensor: ``images[indices]`` is uint8 [n, H, W, C] on the CPU.

    Attributes:
        paths: one file an image.
        height, width: of every image, in pixels.
        channels: 1 or 3.
        resize: whether images are resized to that size (a square,
            :func:`ssfnas.data.resizing.resize_square`), instead of having it already.
    """

    paths: tuple[Path, ...]
    height: int
    width: int
    channels: int
    resize: bool

    device = torch.device("cpu")

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """[N, H, W, C]."""
        return len(self), self.height, self.width, self.channels

    def __getitem__(self, indices: Tensor | Iterable[int]) -> Tensor:
        return torch.stack([self._decode(self.paths[int(index)]) for index in indices])

    def _decode(self, path: Path) -> Tensor:
        """The image of a file, turned upright as its EXIF data say, transparency dropped.

        Raises:
            RequestError: a file that cannot be decoded, or has another size.
        """
        with _opened(path) as image:
            upright = ImageOps.exif_transpose(image)
            pixels = np.array(upright.convert("L" if self.channels == 1 else "RGB"))
        decoded = torch.from_numpy(pixels.reshape(*pixels.shape[:2], self.channels))
        if self.resize:
            return resize_square(decoded[None], self.height)[0]
        height, width = decoded.shape[:2]
        if (height, width) != (self.height, self.width):
            raise RequestError(
                f"{path}: {width} x {height} pixels, but the others have "
                f"{self.width} x {self.height}: give --image-size to resize them"
            )
        return decoded

    def to(self, device: torch.device | str) -> FolderImages:
        """The same: the images stay in their files."""
        return self

    def subset(self, indices: Tensor) -> FolderImages:
        """The same with only those positions, in that order."""
        return replace(self, paths=tuple(self.paths[index] for index in indices.tolist()))

    def decoded(self) -> Tensor:
        """All images in memory: uint8 [N, H, W, C]."""
        result = torch.empty(self.shape, dtype=torch.uint8)

        def fill(index: int) -> None:
            result[index] = self._decode(self.paths[index])

        map_threads(fill, range(len(self)))
        return result
