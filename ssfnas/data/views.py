"""Views of training images: what is random about them, drawn apart from the pixels it acts on.

Parameters are drawn on the CPU for a global batch, one row an image, from a generator that the
caller seeds. They are then applied to any of the rows, on any device, many images at once. So the
result depends neither on how images are grouped nor on how many processes share them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ssfnas.data.crops import shifted_crops
from ssfnas.errors import RequestError
from ssfnas.registry import Registry

Parameters = dict[str, Tensor]


@dataclass(kw_only=True, eq=False)
class Views(ABC):
    """One or more random views of each image, normalized to mean 0 and deviation 1 a channel.

    A subclass gives :meth:`draw_parameters` and :meth:`pixels` and is entered with
    ``@VIEWS.register("name")``.

    Args:
        image_size: height and width in pixels.
        mean, std: one a channel (1 or 3), on a scale from 0 to 1.
        cutout: side in pixels of a square set to the mean in each view, centered anywhere in the
            image and cut off at its border (DeVries and Taylor, 2017); 0: none.

    Attributes:
        count: views of an image.
    """

    count: ClassVar[int] = 1

    image_size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    cutout: int = 0

    def __post_init__(self) -> None:
        if len(self.mean) not in (1, 3) or len(self.std) != len(self.mean):
            raise RequestError(
                f"{len(self.mean)} means and {len(self.std)} deviations: views are made of gray "
                "(1) or RGB (3) images"
            )
        if self.cutout < 0:
            raise RequestError(f"cutout {self.cutout}: it must be a side in pixels, or 0 for none")

    @abstractmethod
    def draw_parameters(self, n: int, generator: torch.Generator) -> Parameters:
        """What is random about the views of ``n`` images: tensors with ``n`` rows."""

    @abstractmethod
    def pixels(self, images: Tensor, parameters: Parameters, dtype: torch.dtype) -> list[Tensor]:
        """The views before they are normalized, float [n, C, H, W] from 0 to 1, not shared."""

    def draw(self, n: int, generator: torch.Generator) -> Parameters:
        """Parameters of the views of ``n`` images.

        Args:
            n: images.
            generator: of the CPU; it alone decides the result.

        Returns:
            tensors on the CPU, row i of each belonging to image i.
        """
        parameters = self.draw_parameters(n, generator)
        if self.cutout:
            parameters["cutout"] = torch.rand((n, self.count, 2), generator=generator)
        return parameters

    def apply(
        self, images: Tensor, parameters: Parameters, *, dtype: torch.dtype = torch.float32
    ) -> tuple[Tensor, ...]:
        """The views that the parameters describe.

        Args:
            images: uint8 [n, H, W, C] on any device.
            parameters: the ``n`` rows of a :meth:`draw` that belong to these images, on the CPU.
            dtype: of the result; half precisions are computed in float32.

        Returns:
            ``count`` tensors [n, C, H, W], contiguous, where the images are.
        """
        expected = (*self.image_size, len(self.mean))
        if images.dtype != torch.uint8 or tuple(images.shape[1:]) != expected:
            raise ValueError(
                f"images {images.dtype} {list(images.shape)}: these views are of uint8 "
                f"[n, {', '.join(str(size) for size in expected)}]"
            )
        views = self.pixels(images, parameters, torch.promote_types(dtype, torch.float32))
        for number, view in enumerate(views):
            normalize_(view, self.mean, self.std)
            if self.cutout:
                self._cut(view, parameters["cutout"][:, number])
        return tuple(view.to(dtype) for view in views)

    def _cut(self, view: Tensor, centers: Tensor) -> None:
        inside = []
        for axis, size in enumerate(self.image_size):
            center = (centers[:, axis] * size).long().clamp_(max=size - 1)
            offset = torch.arange(size) - (center - self.cutout // 2)[:, None]  # [n, size]
            inside.append((offset >= 0) & (offset < self.cutout))
        keep = ~(inside[0][:, None, :, None] & inside[1][:, None, None, :])
        view.mul_(keep.to(view.device, view.dtype))


def to_float(images: Tensor, dtype: torch.dtype) -> Tensor:
    """uint8 [n, H, W, C] as float [n, C, H, W], contiguous, on a scale from 0 to 1."""
    return images.permute(0, 3, 1, 2).contiguous().to(dtype).div_(255)


def normalize_(pixels: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Subtract ``mean`` and divide by ``std`` a channel of [n, C, H, W], in place."""
    center, scale = torch.tensor([mean, std], dtype=pixels.dtype)[..., None, None].to(pixels.device)
    return pixels.sub_(center).div_(scale)


def to_uint8(views: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Normalized images [n, C, H, W] as one looks at them: uint8 [n, H, W, C]."""
    center, scale = torch.tensor([mean, std], dtype=views.dtype)[..., None, None].to(views.device)
    return (views * scale + center).mul_(255).round_().clamp_(0, 255).byte().permute(0, 2, 3, 1)


VIEWS: Registry[type[Views]] = Registry("augmentation")


def make_views(
    name: str,
    *,
    image_size: int | tuple[int, int],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    cutout: int = 0,
) -> Views:
    """The views of that name, see :class:`Views`.

    Args:
        name: ``none``, ``crop_flip``, ``autoaugment``, ``trivialaugment``, ``barlow_twins``, or
            what a plugin registered in ``VIEWS``.
        image_size: height and width in pixels, or one number for both.
        mean, std, cutout: see :class:`Views`.

    Raises:
        RequestError: an unknown name, channels other than 1 or 3, or a negative cutout.
    """
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    return VIEWS.get(name)(image_size=size, mean=mean, std=std, cutout=cutout)


def usual_cutout(image_size: tuple[int, int]) -> int:
    """Side in pixels of the square that is cut out unless one is chosen: half a side, at most 16.

    On CIFAR's 32x32 pixels that is the 16 of the source, a quarter of the area; a fixed 16 would
    blank all of an image of 8x8.

    Args:
        image_size: height and width in pixels.
    """
    return min(16, min(image_size) // 2)


@VIEWS.register("none")
class PlainView(Views):
    """The image itself."""

    def draw_parameters(self, n: int, generator: torch.Generator) -> Parameters:
        """Nothing is random."""
        return {}

    def pixels(self, images: Tensor, parameters: Parameters, dtype: torch.dtype) -> list[Tensor]:
        """The image itself."""
        return [to_float(images, dtype)]


@VIEWS.register("crop_flip")
class CropFlip(Views):
    """A crop of the image padded by 4 black pixels a side, mirrored half of the time.

    4 pixels are an eighth of a CIFAR image; larger images are padded by an eighth as well.
    """

    @property
    def padding(self) -> tuple[int, int]:
        """Black pixels above and below, and left and right."""
        height, width = self.image_size
        return max(4, height // 8), max(4, width // 8)

    def draw_parameters(self, n: int, generator: torch.Generator) -> Parameters:
        """Position of the crop in the padded image, and whether it is mirrored."""
        vertical, horizontal = self.padding
        return {
            "top": torch.randint(2 * vertical + 1, (n,), generator=generator),
            "left": torch.randint(2 * horizontal + 1, (n,), generator=generator),
            "flip": torch.randint(2, (n,), generator=generator).bool(),
        }

    def crop(self, images: Tensor, parameters: Parameters) -> Tensor:
        """The cropped and mirrored images: uint8 [n, H, W, C]."""
        top, left, flip = (parameters[key] for key in ("top", "left", "flip"))
        return shifted_crops(images, top, left, flip, self.padding)

    def pixels(self, images: Tensor, parameters: Parameters, dtype: torch.dtype) -> list[Tensor]:
        """The cropped and mirrored images."""
        return [to_float(self.crop(images, parameters), dtype)]
