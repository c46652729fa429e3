"""Images that a trained network has not seen: of any size and kind, made as the network takes them.

They come from files, arrays or memory, without labels, and are read a few at a time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from ssfnas.data.file_warnings import Found, recorded_warnings
from ssfnas.data.image_file import DEEP, FLOAT, any_pixels, decode_any, range_of_depth
from ssfnas.data.loading import decoded_batches
from ssfnas.data.pixel_range import PixelRange, check_finite, to_8_bits
from ssfnas.data.resizing import resize_and_cut
from ssfnas.errors import RequestError

Array = npt.NDArray[Any]

CHUNK = 32
"""Images that are decoded at a time."""

DONE = {
    "resized": "resized to {width} x {height} pixels, and cut around the middle where too long",
    "turned": "turned upright, as their metadata say",
    "composed": "transparent: composed on {background}",
    "gray": "gray, for a network that takes RGB: the same value in each channel",
    "color": "colored, for a network that takes gray: their luminance",
    "scaled": "of more than 8 bits: {low:.10g} to {high:.10g} became 0 to 255, the range of the "
    "run's training images",
    "whole": "of 16 bits, for a network that was trained on 8: 0 to 65535 became 0 to 255",
    "shallow": "of 8 bits, taken as they are, for a network whose training images had deeper "
    "pixels, of which {low:.10g} to {high:.10g} became 0 to 255",
}
"""What may be done to an image, in the order in which it is told."""


@dataclass(frozen=True)
class ImageForm:
    """The images that a network takes.

    Attributes:
        height, width: in pixels.
        channels: 1 (gray) or 3 (RGB).
        background: what transparent pixels are composed on.
        pixel_range: what became 0 and 255 of the pixels that were trained on; None: they had 8
            bits.
    """

    height: int
    width: int
    channels: int
    background: str = "white"
    pixel_range: PixelRange | None = None

    def notes(self, done: Counter[str], images: int) -> list[str]:
        """What was done to images, a line each.

        Args:
            done: by key of :data:`DONE`, to how many.
            images: how many there are.
        """
        low, high = self.pixel_range or (0, 0)
        lines = []
        for key, text in DONE.items():
            if count := done[key]:
                who = "the image" if images == 1 else "all images" if count == images else ""
                told = text.format(**vars(self), low=low, high=high)
                lines.append(f"{who or f'{count:,} of the images'}: {told}")
        return lines


@dataclass(frozen=True)
class ImageName:
    """Which image it is: of a file, or the one at a position (from 0) of an array in it."""

    file: str
    index: int | None = None


@dataclass(frozen=True, eq=False)
class Taken:
    """A few images as a network takes them.

    Attributes:
        pixels: uint8 [n, H, W, C]; of one that cannot be read zeros.
        problems: why one cannot be read; empty where it can, n of them.
        done: by key of :data:`DONE`, to how many of them.
        warned: what decoders warned of.
    """

    pixels: Tensor
    problems: list[str]
    done: Counter[str]
    warned: list[Found]

    def pin_memory(self) -> Taken:
        """The same where a GPU fetches it quickly."""
        return replace(self, pixels=self.pixels.pin_memory())


class NewImages(Protocol):
    """Images from one place; ``images[indices]`` reads those of these positions."""

    @property
    def form(self) -> ImageForm:
        """What they are made to be."""

    @property
    def in_files(self) -> bool:
        """Whether they are to be decoded, which other processes can do."""

    def __len__(self) -> int: ...

    def __getitem__(self, indices: list[int], /) -> Taken: ...

    def name(self, index: int) -> ImageName:
        """Which image that is."""


@dataclass(frozen=True)
class ImageFiles:
    """Image files, decoded when they are asked for.

    Attributes:
        paths: one a file.
        form: what to make of them.
    """

    paths: Sequence[str]
    form: ImageForm

    in_files = True

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> ImageName:
        """The path, as it was given or found."""
        return ImageName(self.paths[index])

    def __getitem__(self, indices: list[int], /) -> Taken:
        form = self.form

        def decode(index: int) -> tuple[Array, tuple[str, ...]]:
            path = Path(self.paths[index])
            return decode_any(path, form.channels, form.background, form.pixel_range)

        return _each(indices, decode, form)


@dataclass(frozen=True)
class ImagesInMemory:
    """Single images of any size.

    Attributes:
        images: of Pillow, or arrays [H, W] or [H, W, C].
        form: what to make of them.
    """

    images: Sequence[Image.Image | Array]
    form: ImageForm

    in_files = False

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> ImageName:
        """The name of its file, where Pillow knows one."""
        return ImageName(str(getattr(self.images[index], "filename", "")), index)

    def __getitem__(self, indices: list[int], /) -> Taken:
        form = self.form

        def pixels(index: int) -> tuple[Array, tuple[str, ...]]:
            image = self.images[index]
            if isinstance(image, Image.Image):
                path = Path(self.name(index).file or f"image {index}")
                return any_pixels(path, image, form.channels, form.background, form.pixel_range)
            array, done = _of_form(checked_images(image[None], f"image {index}"), form, "it")
            return array[0], done

        return _each(indices, pixels, form)


@dataclass(frozen=True)
class ImageArray:
    """Images of one size in an array.

    Attributes:
        array: see :func:`checked_images`.
        form: what to make of them.
        file: the file that holds it, if one does.
        key: what the array is called.
    """

    array: Array
    form: ImageForm
    file: str = ""
    key: str = "the array"

    in_files = False

    def __len__(self) -> int:
        return len(self.array)

    def name(self, index: int) -> ImageName:
        """The file and the position in the array."""
        return ImageName(self.file, index)

    def __getitem__(self, indices: list[int], /) -> Taken:
        where = f"{self.file}: {self.key}" if self.file else self.key
        pixels, done = _of_form(self.array[indices], self.form, where)
        fitting = resize_and_cut(torch.from_numpy(pixels), self.form.height, self.form.width)
        if pixels.shape[1:3] != fitting.shape[1:3]:
            done = (*done, "resized")
        counts = Counter(dict.fromkeys(done, len(indices)))
        return Taken(fitting, [""] * len(indices), counts, [])


def checked_images(array: Array, what: str) -> Array:
    """An array of images as [N, H, W, C].

    Args:
        array: [N, H, W] or [N, H, W, C] with C 1 or 3; uint8, or integers or floats of more bits.
        what: what messages call it.

    Raises:
        RequestError: another shape or type.
    """
    if array.dtype.kind not in "iuf" or array.dtype == np.int8:
        raise RequestError(f"{what}: pixels of type {array.dtype}: give uint8, from 0 to 255")
    images = array[..., None] if array.ndim == 3 else array
    if images.ndim != 4 or images.shape[3] not in (1, 3) or 0 in images.shape[1:]:
        first = array.ndim == 4 and array.shape[1] in (1, 3)
        raise RequestError(
            f"{what}: shape {list(array.shape)}: it must be [N, H, W] for gray images or "
            "[N, H, W, C] with 1 or 3 channels" + (", which come last" if first else "")
        )
    return images


def _of_form(images: Array, form: ImageForm, where: str) -> tuple[Array, tuple[str, ...]]:
    """Arrays [n, H, W, C] in 8 bits with the channels of a form, and what was done to them."""
    done: tuple[str, ...] = ()
    if images.dtype == np.uint8:
        done = () if form.pixel_range is None else ("shallow",)
    else:
        check_finite(images, where)
        pixel_range, done = form.pixel_range, ("scaled",)
        if pixel_range is None:
            depth = FLOAT if images.dtype.kind == "f" else DEEP
            sixteen = images.dtype.newbyteorder("=") == np.uint16
            pixel_range, done = range_of_depth(where, depth, sixteen), ("whole",)
        images = to_8_bits(images, pixel_range)
    own = images.shape[3]
    if own < form.channels:
        return images.repeat(form.channels, 3), (*done, "gray")
    if own > form.channels:
        luminance = [np.asarray(Image.fromarray(image).convert("L")) for image in images]
        return np.stack(luminance)[..., None], (*done, "color")
    return np.ascontiguousarray(images), done


def _each(indices: list[int], read: Any, form: ImageForm) -> Taken:
    """Images of several sizes, one after the other."""
    pixels = torch.zeros((len(indices), form.height, form.width, form.channels), dtype=torch.uint8)
    problems, counts = [""] * len(indices), Counter[str]()
    with recorded_warnings() as warned:
        for row, index in enumerate(indices):
            try:
                decoded, done = read(index)
            except RequestError as error:
                problems[row] = str(error)
                continue
            counts.update(done)
            if decoded.shape[:2] != (form.height, form.width):
                counts["resized"] += 1
            fitting = resize_and_cut(torch.from_numpy(decoded)[None], form.height, form.width)
            pixels[row] = fitting[0]
    return Taken(pixels, problems, counts, warned)


def read_ahead(images: NewImages, *, workers: int, pin: bool) -> Iterator[tuple[range, Taken]]:
    """All images in order, at most :data:`CHUNK` at a time, with their positions.

    Args:
        images: where they come from.
        workers: processes that decode files meanwhile, at most one a core; few files are decoded
            before processes have started.
        pin: whether they are put where a GPU fetches them quickly.
    """
    chunks = [range(at, min(at + CHUNK, len(images))) for at in range(0, len(images), CHUNK)]
    if not images.in_files or len(chunks) == 1:
        for chunk in chunks:
            yield chunk, images[list(chunk)]
        return
    decoded = decoded_batches(
        images, lambda number: torch.tensor(chunks[number]), 0, len(chunks),
        workers=workers, pin=pin,
    )  # fmt: skip
    yield from zip(chunks, decoded, strict=True)
