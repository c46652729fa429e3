"""Image folders that are too large to be held in memory, and reading many files at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from ssfnas.data.file_warnings import gathered_warnings
from ssfnas.data.image_file import decode_image
from ssfnas.data.pixel_range import PixelRange
from ssfnas.data.resizing import resize_square
from ssfnas.errors import RequestError

_THREADS = 4

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_threads(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """``function`` of every item in order, a few at a time (decoders release the interpreter)."""
    with gathered_warnings(), ThreadPoolExecutor(_THREADS) as pool:
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
        background: what transparent pixels are composed on; see
            :data:`ssfnas.data.image_file.BACKGROUNDS`.
        pixel_range: what becomes 0 and 255 where pixels have more than 8 bits; None: they have 8.
        fits_memory: whether training would hold all of them decoded.
    """

    paths: tuple[Path, ...]
    height: int
    width: int
    channels: int
    resize: bool
    background: str = "white"
    pixel_range: PixelRange | None = None
    fits_memory: bool = False

    device = torch.device("cpu")

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """[N, H, W, C]."""
        return len(self), self.height, self.width, self.channels

    def __getitem__(self, indices: Tensor | Iterable[int]) -> Tensor:
        with gathered_warnings(once=True):
            return torch.stack([self._decode(self.paths[int(index)]) for index in indices])

    def _decode(self, path: Path) -> Tensor:
        """The image of a file; see :func:`ssfnas.data.image_file.decode_image`.

        Raises:
            RequestError: a file that cannot be decoded, or has another size or depth.
        """
        pixels = decode_image(path, self.channels, self.background, self.pixel_range)
        decoded = torch.from_numpy(pixels)
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

    def at_most(self, size: int) -> FolderImages:
        """The same resized to squares of ``size`` pixels where the longer side has more."""
        if max(self.height, self.width) <= size:
            return self
        return replace(self, height=size, width=size, resize=True)

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
