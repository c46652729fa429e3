"""Data sets as folders of image files."""

from __future__ import annotations

import dataclasses
import math
import os
from itertools import chain
from pathlib import Path

import torch

from ssfnas.data.decoding import FolderImages, map_threads, read_shape
from ssfnas.data.imageset import DataParts, ImageSet
from ssfnas.errors import RequestError
from ssfnas.seeding import generator

EXTENSIONS = frozenset(
    {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
)
IN_MEMORY_BYTES = 1 << 30
_TEST_SHARE = 0.2
_VALIDATION_NAMES = ("val", "valid", "validation")
_LAYOUT = "it must hold train/<class>/* and test/<class>/*, or <class>/* to be split"
_NO_IMAGES = f"no images ({', '.join(sorted(EXTENSIONS))})"

Classes = list[list[Path]]
"""The files of each class, in label order."""


def read_folder(
    root: Path,
    *,
    image_size: int | None = None,
    seed: int = 0,
    in_memory_bytes: int = IN_MEMORY_BYTES,
) -> DataParts:
    """A data set from ``train/<class>/*`` and ``test/<class>/*``, or from ``<class>/*``.

    Classes are the folder names in sorted order; images are looked for at any depth below. ``val``,
    ``valid`` or ``validation`` beside ``train`` is the validation part. Folders of one level are
    split class by class: a fifth of each class (at least one image, none of a single one) is
    the test part. Images are gray when all of them are, else RGB.

    Args:
        root: the folder.
        image_size: pixels a side to resize to (:func:`ssfnas.data.resizing.resize_square`).
        seed: of the split of folders of one level.
        in_memory_bytes: images that take more stay in their files and are decoded when asked for.

    Raises:
        RequestError: another layout, a class without training images, a class that only the test
            part has, images of several sizes without ``image_size``, a file that cannot be decoded.
    """
    has_parts = (root / "train").is_dir()
    training = root / "train" if has_parts else root
    names = _class_folders(training)
    if not names:
        raise RequestError(f"{training}: no class folders: {_LAYOUT}")
    if len(names) < 2:
        raise RequestError(f"{root}: only the class '{names[0]}': give two classes or more")
    train = _classes(training, names)
    if [] in train:
        raise RequestError(f"{training / names[train.index([])]}: {_NO_IMAGES} of this class")
    if has_parts:
        parts = {"train": train, **_other_parts(root, names)}
    else:
        parts = _split_parts(root, names, train, seed)
    paths = [path for classes in parts.values() for files in classes for path in files]
    together = _of_one_size(paths, image_size)
    lazy = math.prod(together.shape) > in_memory_bytes
    sets = {}
    for part, classes in parts.items():
        images = dataclasses.replace(together, paths=tuple(chain(*classes)))
        sizes = torch.tensor([len(files) for files in classes])
        labels = torch.arange(len(names)).repeat_interleave(sizes)
        sets[part] = ImageSet(images if lazy else images.decoded(), labels)
    return DataParts(
        root.resolve().name or "folder", sets["train"], sets.get("val"), sets["test"], tuple(names)
    )


def _other_parts(root: Path, names: list[str]) -> dict[str, Classes]:
    """The parts beside ``root/train``, which has classes of those names."""
    folders = {"test": root / "test"}
    if not folders["test"].is_dir():
        raise RequestError(f"{root}: a train folder but no test folder: {_LAYOUT}")
    for name in _VALIDATION_NAMES:
        if (root / name).is_dir():
            folders.setdefault("val", root / name)
    parts = {}
    for part, folder in folders.items():
        unknown = [name for name in _class_folders(folder) if name not in names]
        if unknown:
            raise RequestError(
                f"{folder / unknown[0]}: the class '{unknown[0]}' has no training images: "
                f"add {root / 'train' / unknown[0]} or remove it"
            )
        parts[part] = _classes(folder, names)
        if not any(parts[part]):
            raise RequestError(f"{folder}: {_NO_IMAGES}: {_LAYOUT}")
    return parts


def _split_parts(root: Path, names: list[str], classes: Classes, seed: int) -> dict[str, Classes]:
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


def _class_folders(folder: Path) -> list[str]:
    return sorted(
        entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != "."
    )


def _classes(folder: Path, names: list[str]) -> Classes:
    """Images at any depth, in an order that does not depend on the file system."""
    return [
        sorted(
            Path(parent) / file
            for parent, _, files in os.walk(folder / name)
            for file in files
            if file[0] != "." and os.path.splitext(file)[1].lower() in EXTENSIONS
        )
        for name in names
    ]


def _of_one_size(paths: list[Path], image_size: int | None) -> FolderImages:
    """The images of those files, as undecoded as they are."""
    shapes = map_threads(read_shape, paths)
    height, width, _ = shapes[0] if image_size is None else (image_size, image_size, None)
    channels = max(channels for _, _, channels in shapes)
    for path, (own_height, own_width, _) in zip(paths, shapes, strict=True):
        if image_size is None and (own_height, own_width) != (height, width):
            raise RequestError(
                f"{path}: {own_width} x {own_height} pixels, but {paths[0].name} has "
                f"{width} x {height}: give --image-size to resize all to one size"
            )
    return FolderImages(tuple(paths), height, width, channels, resize=image_size is not None)
