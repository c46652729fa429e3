"""Labeled images, and the parts of a data set."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ssfnas.data.decoding import FolderImages, map_threads
from ssfnas.data.pixel_range import PixelRange

_CHUNK = 2048


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images with their labels.

    Attributes:
        images: uint8 [N, H, W, C] on any device, or :class:`FolderImages` decoded when asked for.
        labels: int64 [N], or float32 [N, L] of zeros and ones where an image has several labels.
    """

    images: Tensor | FolderImages
    labels: Tensor

    def __post_init__(self) -> None:
        if len(self.images) != len(self.labels):
            raise ValueError(f"{len(self.images)} images with {len(self.labels)} labels")
        if isinstance(self.images, Tensor) and (
            self.images.dtype != torch.uint8 or self.images.ndim != 4
        ):
            raise ValueError(
                f"images {self.images.dtype} {list(self.images.shape)}: not uint8 [N, H, W, C]"
            )
        expected = torch.float32 if self.labels.ndim == 2 else torch.int64
        if self.labels.dtype != expected:
            raise ValueError(f"labels of type {self.labels.dtype}: not {expected}")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def lazy(self) -> bool:
        """Whether images are decoded each time they are asked for."""
        return isinstance(self.images, FolderImages)

    @property
    def multi_label(self) -> bool:
        """Whether an image has several labels."""
        return self.labels.ndim == 2

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        _, height, width, _ = self.images.shape
        return height, width

    @property
    def in_channels(self) -> int:
        """1 (gray) or 3 (RGB)."""
        return self.images.shape[3]

    def gather(self, indices: Tensor) -> Tensor:
        """The images of those positions: uint8 [n, H, W, C] where the images are kept."""
        return self.images[indices.to(self.images.device)]

    def subset(self, indices: Tensor | npt.NDArray[np.int64] | Sequence[int]) -> ImageSet:
        """The images of those positions, in that order."""
        positions = torch.as_tensor(indices, dtype=torch.int64)
        labels = self.labels[positions.to(self.labels.device)]
        if isinstance(self.images, FolderImages):
            return ImageSet(self.images.subset(positions), labels)
        return ImageSet(self.gather(positions), labels)

    def to(self, device: torch.device | str) -> ImageSet:
        """The same on ``device``; images that are decoded when asked for stay in their files."""
        return ImageSet(self.images.to(device), self.labels.to(device))

    def class_counts(self, num_classes: int) -> list[int]:
        """Images of each class; with several labels an image, images that have each label."""
        if self.multi_label:
            return [int(count) for count in self.labels.double().sum(0).tolist()]
        counts = torch.bincount(self.labels.cpu(), minlength=num_classes)
        return [int(count) for count in counts.tolist()]


@dataclass(frozen=True, eq=False)
class DataParts:
    """The parts of a data set as a source hands them over.

    Attributes:
        name: what people call it.
        train, validation, test: the parts that it has.
        class_names: one a class (or label), in label order.
        notes: what was left aside or decided while reading, a line each.
        skipped: paths of files that could not be read and were left out.
        pixel_range: what became 0 and 255 where pixels had more than 8 bits; None: they had 8.
        original_size: height and width that the images have in their source, where they are resized
            without having been asked for.
    """

    name: str
    train: ImageSet
    validation: ImageSet | None
    test: ImageSet | None
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = field(default=(), kw_only=True)
    skipped: tuple[str, ...] = field(default=(), kw_only=True)
    pixel_range: PixelRange | None = field(default=None, kw_only=True)
    original_size: tuple[int, int] | None = field(default=None, kw_only=True)

    def with_each(self, change: Callable[[ImageSet], ImageSet]) -> Self:
        """The same with what ``change`` makes of every part that there is."""
        parts = {part: getattr(self, part) for part in ("train", "validation", "test")}
        changed: dict[str, Any] = {
            part: change(images) for part, images in parts.items() if images is not None
        }
        return dataclasses.replace(self, **changed)


@dataclass(frozen=True, eq=False)
class ImageData(DataParts):
    """A data set to train on: long-tailed, resized, and with how its pixels are distributed.

    Attributes:
        mean, std: one a channel, of the training part's pixels on a scale from 0 to 1.
        workers: processes that decode images that are not in memory; see
            :func:`ssfnas.data.loading.decoded_batches`.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    workers: int = field(default=4, kw_only=True)

    @property
    def multi_label(self) -> bool:
        """Whether an image has several labels."""
        return self.train.multi_label

    @property
    def num_classes(self) -> int:
        """Classes, or labels an image may have."""
        return len(self.class_names)

    @property
    def in_channels(self) -> int:
        """1 (gray) or 3 (RGB)."""
        return self.train.in_channels

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.train.image_size

    @property
    def class_counts(self) -> list[int]:
        """Training images of each class."""
        return self.train.class_counts(self.num_classes)

    @property
    def imbalance_ratio(self) -> float:
        """Training images of the largest class over those of the smallest."""
        counts = self.class_counts
        return max(counts) / min(counts) if min(counts) else float("inf")

    @property
    def _stays_in_files(self) -> bool:
        images = self.train.images
        return isinstance(images, FolderImages) and not images.fits_memory

    def to(self, device: torch.device | str) -> ImageData:
        """The same with every part on ``device``."""
        return self.with_each(lambda part: part.to(device))

    def summary(self) -> str:
        """What the data set holds, in a few lines for people."""
        height, width = self.image_size
        kind = "gray" if self.in_channels == 1 else "RGB"
        classes = "labels, several an image" if self.multi_label else "classes"
        counts = zip(self.class_names, self.class_counts, strict=True)
        shown = [f"{name} {count}" for name, count in sorted(counts, key=lambda pair: -pair[1])]
        if len(shown) > 12:
            shown = [*shown[:5], "...", *shown[-5:]]
        lines = [
            f"{self.name}: {self.num_classes} {classes}, {width} x {height} pixels, {kind}",
            f"  training    {len(self.train)} images, imbalance ratio {self.imbalance_ratio:.4g}"
            + (" (decoded while training)" if self._stays_in_files else ""),
            f"              {', '.join(shown)}",
        ]
        for title, part in (("validation", self.validation), ("test", self.test)):
            if part is not None:
                lines.append(f"  {title:<11} {len(part)} images")
        lines += [f"  {note}" for note in self.notes]
        return "\n".join(lines)


def channel_statistics(
    part: ImageSet, most_decoded: int = 2048
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, pixels on a scale from 0 to 1.

    Sums are exact integers. A channel that never varies gets the standard deviation 1.

    Args:
        part: the images.
        most_decoded: of images that are decoded when asked for at most this many are measured,
            evenly spaced. Where the means of single images spread by 0.2, the standard error of the
            mean over 2,048 is 0.0044, about one of 255 levels.
    """
    count = len(part)
    positions = torch.arange(count)
    if part.lazy and count > most_decoded:
        positions = torch.linspace(0, count - 1, most_decoded, dtype=torch.float64).round().long()

    # One count a value and channel: integers, so the result does not depend on any order.
    def counted(chunk: Tensor) -> Tensor:
        channels = part.gather(chunk).reshape(-1, part.in_channels).T
        return torch.stack([torch.bincount(channel, minlength=256).cpu() for channel in channels])

    if part.lazy:
        histograms = torch.stack(map_threads(counted, positions.split(1))).sum(0)
    else:
        histograms = torch.stack([counted(chunk) for chunk in positions.split(_CHUNK)]).sum(0)
    levels = torch.arange(256)
    totals, squares = (histograms @ levels).tolist(), (histograms @ levels**2).tolist()
    height, width = part.image_size
    pixels_each = len(positions) * height * width
    mean, std = [], []
    for total, square in zip(totals, squares, strict=True):
        mean.append(total / pixels_each / 255)
        # Integer arithmetic: no digits are lost where the variance is small.
        variance = (square * pixels_each - total * total) / pixels_each**2
        std.append(variance**0.5 / 255 if variance > 0 else 1.0)
    return tuple(mean), tuple(std)
