"""From what is named or handed over to new images: files, folders, ``.npz`` files, arrays."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ssfnas.data.endings import IMAGES, readable_endings
from ssfnas.data.new_images import (
    Array,
    ImageArray,
    ImageFiles,
    ImageForm,
    ImagesInMemory,
    NewImages,
    checked_images,
)
from ssfnas.data.walking import Aside, ImageFinder
from ssfnas.errors import RequestError

PARTS = ("images", "test", "val", "train")
"""Which images of an ``.npz`` file, in the order of preference."""


def named_images(
    places: Sequence[str], form: ImageForm, part: str | None = None
) -> tuple[list[NewImages], list[str]]:
    """The images that lie in places, in the order in which these are named.

    Args:
        places: image files, folders whose images at any depth are taken in sorted order, or
            ``.npz`` files.
        form: what to make of them.
        part: of :data:`PARTS`, which images of ``.npz`` files; None: the first that there are.

    Returns:
        The images, and what was left aside or decided, a line each.

    Raises:
        RequestError: a place that is not there or holds no images, or ``part`` without an ``.npz``
            file.
    """
    found: list[NewImages] = []
    files: list[str] = []
    notes: list[str] = []
    aside = Aside()
    arrays = 0
    for place in places:
        path = Path(place).expanduser()
        if path.suffix.lower() == ".npz" and path.is_file():
            found += [ImageFiles(files, form)] if files else []
            files = []
            array, key, said = _array_of(path, part)
            found.append(ImageArray(array, form, place, key))
            notes += said
            arrays += 1
        else:
            files += _files_of(place, path, aside)
    found += [ImageFiles(files, form)] if files else []
    if part is not None and not arrays:
        raise RequestError(f"--part {part} is about .npz files, and none is named: leave it out")
    return found, [*notes, *aside.notes()]


def _files_of(place: str, path: Path, aside: Aside) -> list[str]:
    """The image file that a place is, or those below it."""
    readable = readable_endings()
    if path.is_dir():
        own = Aside()
        below = [str(file) for file in ImageFinder(own).below(path).values()]
        if not below:
            instead = "".join(f"; {note}" for note in own.notes())
            raise RequestError(f"{place}: no images ({', '.join(sorted(readable))}){instead}")
        aside.add(own)
        return below
    if not path.exists():
        raise RequestError(f"{place}: there is no such file or folder")
    ending = path.suffix.lower()
    if ending and ending not in readable:
        what = "unreadable here" if ending in IMAGES else "by its ending no image"
        raise RequestError(
            f"{place}: {what}: name image files ({', '.join(sorted(readable))}), folders of them, "
            "or .npz files"
        )
    return [str(path)]


def _array_of(path: Path, part: str | None) -> tuple[Array, str, list[str]]:
    """The images [N, H, W, C] of an ``.npz`` file, their key, and what is to be said of them.

    Raises:
        RequestError: it holds none, others, or is damaged. Nothing in it is unpickled.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            if not hasattr(file, "files"):
                raise RequestError("not an .npz file: save arrays with numpy.savez")
            there = [name for name in PARTS if _key(name) in file.files]
            wanted = there[0] if part is None and there else part
            if wanted not in there:
                raise RequestError(_missing(part, there, file.files))
            key = _key(wanted)
            array = np.asarray(file[key])
    except RequestError as error:
        raise RequestError(f"{path}: {error}") from None
    except Exception as error:
        # zipfile, zlib and numpy's header parser each raise several types on damaged bytes.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise RequestError(
            f"{path}: cannot be read ({reason}): the file is damaged, or holds Python objects "
            "instead of plain arrays"
        ) from error
    array = checked_images(array, f"{path}: {key}")
    if not len(array):
        raise RequestError(f"{path}: {key} holds no images")
    others = [name for name in there if name != wanted]
    notes = []
    if part is None and others:
        notes = [f"{path}: its {wanted} images; --part {others[0]} takes others"]
    return array, key, notes


def _key(part: str) -> str:
    return part if part == "images" else f"{part}_images"


def _missing(part: str | None, there: list[str], keys: Sequence[str]) -> str:
    if there:
        return f"--part {part}: no {_key(str(part))}: it holds those of {', '.join(there)}"
    held = ", ".join(map(str, keys)) or "nothing"
    return f"no images: an array is to be called images or test_images, and it holds {held}"


def given_images(given: Any, form: ImageForm) -> list[NewImages]:
    """The images that a call hands over.

    Args:
        given: one of these, or a list: a path (see :func:`named_images`), an image of Pillow, an
            array or tensor. Alone an array is [N, H, W] or [N, H, W, C], in a list each is one
            image [H, W] or [H, W, C].
        form: what to make of them.

    Raises:
        RequestError: nothing, or something else; what :func:`named_images` refuses.
    """
    if isinstance(given, (np.ndarray, torch.Tensor)):
        array = checked_images(_array(given), "images")
        if not len(array):
            raise RequestError("images: an empty array: give at least one image")
        return [ImageArray(array, form)]
    items = list(given) if isinstance(given, (list, tuple)) else [given]
    if not items:
        raise RequestError("images: an empty list: give at least one image")
    found: list[NewImages] = []
    paths: list[str] = []
    images: list[Image.Image | Array] = []
    for item in [*items, None]:
        is_path = isinstance(item, (str, os.PathLike))
        is_image = isinstance(item, (Image.Image, np.ndarray, torch.Tensor))
        if item is not None and not (is_path or is_image):
            raise RequestError(
                f"images: a {type(item).__name__}: give paths, images of Pillow, or arrays"
            )
        # What is of one kind is read together; all stay in order.
        if paths and not is_path:
            found += named_images(paths, form)[0]
            paths = []
        if images and not is_image:
            found.append(ImagesInMemory(images, form))
            images = []
        if is_path:
            paths.append(os.fspath(item))
        elif is_image:
            images.append(item if isinstance(item, Image.Image) else _array(item))
    return found


def _array(given: Any) -> Array:
    return given.cpu().numpy() if isinstance(given, torch.Tensor) else given
