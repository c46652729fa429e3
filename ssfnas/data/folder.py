"""Data sets as folders of image files."""

from __future__ import annotations

import dataclasses
import os
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from ssfnas.data.decoding import FolderImages, ImageHeader, map_threads, read_header
from ssfnas.data.imageset import ImageSet
from ssfnas.data.parts import DataParts
from ssfnas.errors import RequestError
from ssfnas.seeding import generator

EXTENSIONS = frozenset(
    {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
)
IN_MEMORY_BYTES = 1 << 30
_TEST_SHARE = 0.2
_VALIDATION_NAMES = ("val", "valid", "validation")
_LAYOUT = "it must hold train/<class>/* and test/<class>/*, or <class>/* to be split"

Entries = list[tuple[Path, int]]


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
    if (root / "train").is_dir():
        names, parts = _split_layout(root)
    else:
        names, parts = _flat_layout(root, seed)
    if len(names) < 2:
        raise RequestError(f"{root}: only the class '{names[0]}': give two classes or more")
    paths = [path for entries in parts.values() for path, _ in entries]
    template = _common_images(paths, map_threads(read_header, paths), image_size)
    size = len(paths) * template.height * template.width * template.channels
    sets = {}
    for part, entries in parts.items():
        images = dataclasses.replace(template, paths=tuple(path for path, _ in entries))
        labels = torch.tensor([label for _, label in entries], dtype=torch.int64)
        sets[part] = ImageSet(images if size > in_memory_bytes else images.decoded(), labels)
    return DataParts(
        root.resolve().name or "folder", sets["train"], sets.get("val"), sets["test"], names
    )


def _split_layout(root: Path) -> tuple[tuple[str, ...], dict[str, Entries]]:
    folders = {"train": root / "train", "test": root / "test"}
    for name in _VALIDATION_NAMES:
        if (root / name).is_dir():
            folders.setdefault("val", root / name)
    if not folders["test"].is_dir():
        raise RequestError(f"{root}: a train folder but no test folder: {_LAYOUT}")
    names = tuple(_class_folders(folders["train"]))
    if not names:
        raise RequestError(f"{folders['train']}: no class folders: {_LAYOUT}")
    parts: dict[str, Entries] = {}
    for part, folder in folders.items():
        unknown = [name for name in _class_folders(folder) if name not in names]
        if unknown:
            raise RequestError(
                f"{folder / unknown[0]}: the class '{unknown[0]}' has no training images: "
                f"add {folders['train'] / unknown[0]} or remove it"
            )
        entries = []
        for label, name in enumerate(names):
            files = _image_files(folder / name)
            if not files and part == "train":
                raise RequestError(f"{folder / name}: no images ({_extensions()}) of this class")
            entries += [(path, label) for path in files]
        if not entries:
            raise RequestError(f"{folder}: no images ({_extensions()}): {_LAYOUT}")
        parts[part] = entries
    return names, parts


def _flat_layout(root: Path, seed: int) -> tuple[tuple[str, ...], dict[str, Entries]]:
    names = tuple(_class_folders(root))
    if not names:
        raise RequestError(f"{root}: no class folders: {_LAYOUT}")
    parts: dict[str, Entries] = {"train": [], "test": []}
    for label, name in enumerate(names):
        files = _image_files(root / name)
        if not files:
            raise RequestError(f"{root / name}: no images ({_extensions()}) of this class")
        order = torch.randperm(len(files), generator=generator(seed, "test split", name)).tolist()
        held_out = round(len(files) * _TEST_SHARE) or int(len(files) > 1)
        test = set(order[:held_out])
        for position, path in enumerate(files):
            parts["test" if position in test else "train"].append((path, label))
    if not parts["test"]:
        raise RequestError(f"{root}: every class has a single image: none is left to test on")
    return names, parts


def _class_folders(folder: Path) -> list[str]:
    return sorted(
        entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != "."
    )


def _image_files(folder: Path) -> list[Path]:
    """Images at any depth, in an order that does not depend on the file system."""
    found = [
        Path(parent) / name
        for parent, _, names in os.walk(folder)
        for name in names
        if name[0] != "." and os.path.splitext(name)[1].lower() in EXTENSIONS
    ]
    return sorted(found)


def _extensions() -> str:
    return ", ".join(sorted(EXTENSIONS))


def _common_images(
    paths: list[Path], headers: list[ImageHeader], image_size: int | None
) -> FolderImages:
    """What all images have in common: size after resizing, and channels."""
    channels: Literal[1, 3] = 1 if all(header.gray for header in headers) else 3
    template = partial(FolderImages, (), channels=channels)
    if image_size is not None:
        return template(height=image_size, width=image_size, size=image_size)
    first = headers[0]
    for path, header in zip(paths, headers, strict=True):
        if (header.height, header.width) != (first.height, first.width):
            raise RequestError(
                f"{path}: {header.width} x {header.height} pixels, but {paths[0].name} has "
                f"{first.width} x {first.height}: give --image-size to resize all to one size"
            )
    return template(height=first.height, width=first.width, size=None)
