"""Data sets as folders of image files."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

import torch

from ssfnas.data.decoding import FolderImages, map_threads
from ssfnas.data.file_warnings import gathered_warnings
from ssfnas.data.image_file import EIGHT_BITS, Header, deep_range, read_header
from ssfnas.data.imageset import DataParts, ImageSet
from ssfnas.data.layout import Classes, read_layout
from ssfnas.data.many_files import map_files
from ssfnas.data.pixel_range import PixelRange, check_range, range_note
from ssfnas.data.unreadable import without_unreadable
from ssfnas.errors import RequestError
from ssfnas.seeding import generator

IN_MEMORY_BYTES = 1 << 30
_TEST_SHARE = 0.2
_LONG_PASS = 5_000


class SeveralSizesError(RequestError):
    """Images have several sizes, and none was asked for."""


@gathered_warnings()
def read_folder(
    root: Path,
    *,
    image_size: int | None = None,
    seed: int = 0,
    background: str = "white",
    skip_corrupt: int = 0,
    pixel_range: PixelRange | None = None,
    largest: int | None = None,
    preview: bool = False,
    in_memory_bytes: int = IN_MEMORY_BYTES,
) -> DataParts:
    """A data set from ``train/<class>/*`` and ``test/<class>/*``, or from ``<class>/*``.

    Classes are the folder names in sorted order; images are looked for at any depth below
    (:func:`ssfnas.data.layout.read_layout`). Folders of one level are split class by class: a fifth
    of each class (at least one image, none of a single one) is the test part. Images are gray when
    all of them are, else RGB. Where their pixels have more than 8 bits, the smallest value of the
    training part becomes 0 and the largest 255, in every part.

    Args:
        root: the folder.
        image_size: pixels a side to resize to (:func:`ssfnas.data.resizing.resize_square`).
        seed: of the split of folders of one level.
        background: what transparent pixels are composed on: ``"white"``, ``"gray"``, ``"black"``.
        skip_corrupt: at most so many files that cannot be read are left out; above 0 all are
            decoded once beforehand.
        pixel_range: what becomes 0 and 255 instead of the training part's own range.
        largest, preview: see :func:`ssfnas.data.load_data`.
        in_memory_bytes: images that take more stay in their files and are decoded when asked for.

    Raises:
        RequestError: another layout, a class without training images, a class that only the test
            part has, images of several sizes without ``image_size`` or of several depths, more
            files that cannot be read than may be left out.
    """
    layout = read_layout(root)
    names, parts, notes = layout.names, layout.parts, [*layout.notes]
    if "test" not in parts:
        parts = _split_parts(root, names, parts["train"], seed)
        notes.append(
            f"no folders of parts: a fifth of each class is the test part (--data-seed {seed})"
        )
    skipped: tuple[str, ...] = ()
    if skip_corrupt:
        _announce(root, _files(parts), "to find those that cannot be read")
        parts, skipped, said = without_unreadable(root, names, parts, skip_corrupt)
        notes += said
    headers = map_files(read_header, _files(parts))
    given = _of_one_size(_files(parts), headers, image_size, background)
    together = given if image_size is not None or largest is None else given.at_most(largest)
    depth, said = _depth(_files(parts), headers)
    notes += said + _transparent(_files(parts), headers, background)
    if depth != EIGHT_BITS:
        told = pixel_range is not None
        pixel_range = pixel_range or _training_range(root, [*chain(*parts["train"])])
        together = dataclasses.replace(together, pixel_range=pixel_range)
        notes.append(range_note(pixel_range, depth, given=told))
    fits = math.prod(together.shape) <= in_memory_bytes
    together = dataclasses.replace(together, fits_memory=fits)
    sets = {}
    for part, classes in parts.items():
        images = dataclasses.replace(together, paths=tuple(chain(*classes)))
        sizes = torch.tensor([len(files) for files in classes])
        labels = torch.arange(len(names)).repeat_interleave(sizes)
        sets[part] = ImageSet(images.decoded() if fits and not preview else images, labels)
    return DataParts(
        root.resolve().name or "folder", sets["train"], sets.get("val"), sets["test"], names,
        notes=tuple(notes), skipped=skipped, pixel_range=together.pixel_range,
        original_size=given.shape[1:3] if together.resize and not given.resize else None,
    )  # fmt: skip


def _files(parts: dict[str, Classes]) -> list[Path]:
    return [path for classes in parts.values() for files in classes for path in files]


def _split_parts(
    root: Path, names: Iterable[str], classes: Classes, seed: int
) -> dict[str, Classes]:
    """Each class split at random into a training and a test part."""
    parts: dict[str, Classes] = {"train": [], "test": []}
    for name, files in zip(names, classes, strict=True):
        order = torch.randperm(len(files), generator=generator(seed, "test split", name)).tolist()
        held_out = round(len(files) * _TEST_SHARE) or int(len(files) > 1)
        parts["test"].append([files[position] for position in sorted(order[:held_out])])
        parts["train"].append([files[position] for position in sorted(order[held_out:])])
    if not any(parts["test"]):
        raise RequestError(f"{root}: every class has a single image: none is left to test on")
    return parts


def _announce(root: Path, paths: list[Path], purpose: str) -> None:
    """Say beforehand what takes its time."""
    if len(paths) >= _LONG_PASS:
        warnings.warn(
            f"{root}: decoding {len(paths):,} images once, {purpose}: this may take minutes",
            stacklevel=4,
        )


def _of_one_size(
    paths: list[Path], headers: list[Header], image_size: int | None, background: str
) -> FolderImages:
    """The images of those files, as undecoded as they are."""
    height, width = headers[0].height, headers[0].width
    if image_size is not None:
        height = width = image_size
    channels = max(header.channels for header in headers)
    for path, header in zip(paths, headers, strict=True):
        if image_size is None and (header.height, header.width) != (height, width):
            raise SeveralSizesError(
                f"{path}: {header.width} x {header.height} pixels, but {paths[0].name} has "
                f"{width} x {height}: give --image-size to resize all to one size"
            )
    return FolderImages(
        tuple(paths), height, width, channels, resize=image_size is not None, background=background
    )


def _depth(paths: list[Path], headers: list[Header]) -> tuple[str, list[str]]:
    """What the pixels of every file hold, and what is to be said of it."""
    depth = headers[0].depth
    for path, header in zip(paths, headers, strict=True):
        if header.depth != depth:
            raise RequestError(
                f"{path}: pixels of {header.depth}, but {paths[0]} has {depth}: their values have "
                "no common scale, convert all to one depth"
            )
    reduced = [path for path, header in zip(paths, headers, strict=True) if header.reduced]
    if not reduced:
        return depth, []
    return depth, [
        f"{len(reduced):,} files hold colors of 16 bits a channel, such as {reduced[0].name}: the "
        "upper 8 bits are read (0 to 65535 became 0 to 255)"
    ]


def _transparent(paths: list[Path], headers: list[Header], background: str) -> list[str]:
    """What is said of images that may have transparent pixels."""
    found = [path for path, header in zip(paths, headers, strict=True) if header.alpha]
    if not found:
        return []
    number = "1 file has" if len(found) == 1 else f"{len(found):,} files have"
    return [
        f"{number} an alpha channel, such as {found[0].name}: transparent pixels are laid on "
        f"{background} (--background)"
    ]


def _training_range(root: Path, paths: list[Path]) -> PixelRange:
    """Smallest and largest value of all images of the training part."""
    _announce(root, paths, "for the range of their values")
    ranges = [found for found in map_threads(deep_range, paths) if found is not None]
    low = min((low for low, _ in ranges), default=0.0)
    high = max((high for _, high in ranges), default=0.0)
    return check_range((low, high), str(root))
