"""Data sets in one ``.npz`` file, in MedMNIST's convention. Nothing in the file is unpickled."""

from __future__ import annotations

import unicodedata
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ssfnas.data.imageset import DataParts, ImageSet
from ssfnas.data.pixel_range import (
    PixelRange,
    check_finite,
    check_range,
    range_note,
    to_8_bits,
)
from ssfnas.errors import RequestError

Array = npt.NDArray[Any]

_KEYS = ("train_images", "train_labels", "test_images", "test_labels")
_DEEP_KINDS = tuple(map(np.dtype, ("uint16", "int16", "float16", "float32", "float64")))
_CONVENTION = (
    "an .npz file holds train_images, train_labels, test_images, test_labels, "
    "optionally val_images, val_labels and class_names"
)


def read_npz(path: Path, *, pixel_range: PixelRange | None = None) -> DataParts:
    """A data set from an ``.npz`` file.

    Images are uint8, [N, H, W] (gray) or [N, H, W, C] with C 1 or 3. Those of the types that
    :data:`_DEEP_KINDS` lists are scaled: the smallest value of ``train_images`` becomes 0 and
    the largest 255, in every part (:func:`ssfnas.data.pixel_range.to_8_bits`). Labels are integers
    [N] or [N, 1], or zeros and ones [N, L] where an image may have several of L >= 2 labels.
    Optional: ``val_images`` with ``val_labels``, and ``class_names``, strings [classes].

    Args:
        path: the file.
        pixel_range: what becomes 0 and 255 instead of the training part's own range.

    Raises:
        RequestError: whatever is missing, damaged, or of another type, shape or range.
    """
    try:
        return _parts(path.stem, _read_arrays(path), pixel_range)
    except RequestError as error:
        raise RequestError(f"{path}: {error}") from error


def _parts(name: str, arrays: dict[str, Array], pixel_range: PixelRange | None) -> DataParts:
    missing = [key for key in _KEYS if key not in arrays]
    if missing:
        raise RequestError(f"no {', '.join(missing)}: {_CONVENTION}")
    if ("val_images" in arrays) != ("val_labels" in arrays):
        raise RequestError("val_images and val_labels belong together: give both or none")
    parts = ("train", "val", "test") if "val_images" in arrays else ("train", "test")
    images = {part: _images(f"{part}_images", arrays) for part in parts}
    labels = {part: _labels(f"{part}_labels", arrays, len(images[part])) for part in parts}
    for kind, found, rule in (
        ("images", images, "height, width and channels must be the same"),
        ("labels", labels, "one column a label in every part"),
    ):
        for part, array in found.items():
            if array.shape[1:] != found["train"].shape[1:]:
                raise RequestError(
                    f"{part}_{kind} have shape {_shape(array)}, train_{kind} "
                    f"{_shape(found['train'])}: {rule}"
                )
    names = _class_names(arrays.get("class_names"), labels)
    _warn_of_one_hot(labels)
    images, pixel_range, notes = _eight_bits(images, pixel_range)
    dtype = np.float32 if labels["train"].ndim == 2 else np.int64
    sets = {
        part: ImageSet(torch.from_numpy(images[part]), torch.from_numpy(labels[part].astype(dtype)))
        for part in parts
    }
    return DataParts(
        name, sets["train"], sets.get("val"), sets["test"], names,
        notes=notes, pixel_range=pixel_range,
    )  # fmt: skip


def _read_arrays(path: Path) -> dict[str, Array]:
    wanted = (*_KEYS, "val_images", "val_labels", "class_names")
    try:
        with path.open("rb") as stream:
            if stream.read(4) != b"PK\x03\x04":
                raise RequestError(f"not an .npz file: {_CONVENTION}")
    except OSError as error:
        raise RequestError(f"cannot be read ({error.strerror or error})") from error
    key = "its table of contents"
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {}
            for key in wanted:
                if key in file.files:
                    arrays[key] = np.asarray(file[key])
            return arrays
    except Exception as error:
        # zipfile, zlib and numpy's header parser each raise several types on damaged bytes.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise RequestError(
            f"{key} cannot be read ({reason}): the file is damaged, or holds Python "
            "objects instead of plain arrays"
        ) from error


def _shape(array: Array) -> str:
    return f"[{', '.join(str(size) for size in array.shape)}]"


def _images(key: str, arrays: dict[str, Array]) -> Array:
    array = arrays[key]
    if array.dtype != np.uint8 and array.dtype.newbyteorder("=") not in _DEEP_KINDS:
        raise RequestError(
            f"{key} are {array.dtype}: images must be uint8, from 0 to 255, or "
            f"{', '.join(map(str, _DEEP_KINDS))}, which are scaled by the range of train_images"
        )
    if array.ndim == 3:
        array = array[..., None]
    if array.ndim != 4 or array.shape[3] not in (1, 3):
        raise RequestError(
            f"{key} have shape {_shape(arrays[key])}: it must be [N, H, W] for gray images "
            "or [N, H, W, C] with 1 or 3 channels last"
        )
    if 0 in array.shape:
        raise RequestError(f"{key} have shape {_shape(arrays[key])}: they are empty")
    return np.ascontiguousarray(array)


def _eight_bits(
    images: dict[str, Array], pixel_range: PixelRange | None
) -> tuple[dict[str, Array], PixelRange | None, tuple[str, ...]]:
    """The images of every part in 8 bits, what became 0 and 255, and what is to be said of it."""
    train = images["train"]
    for part, array in images.items():
        if (array.dtype.itemsize > 1, array.dtype.kind == "f") != (
            train.dtype.itemsize > 1,
            train.dtype.kind == "f",
        ):
            raise RequestError(
                f"{part}_images are {array.dtype}, train_images {train.dtype}: uint8, other "
                "integers and floating-point numbers have no common scale"
            )
        check_finite(array, f"{part}_images")
    if train.dtype == np.uint8:
        return images, None, ()
    given = pixel_range is not None
    if pixel_range is None:
        pixel_range = check_range((float(train.min()), float(train.max())), "train_images")
    scaled = {part: to_8_bits(array, pixel_range) for part, array in images.items()}
    return scaled, pixel_range, (range_note(pixel_range, train.dtype.name, given=given),)


def _labels(key: str, arrays: dict[str, Array], images: int) -> Array:
    """Labels [N] of any integer type, or zeros and ones [N, L]."""
    array = arrays[key]
    if array.dtype.kind not in "iub":
        raise RequestError(f"{key} are {array.dtype}: labels must be integers")
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim not in (1, 2) or (array.ndim == 2 and array.shape[1] == 0):
        raise RequestError(
            f"{key} have shape {_shape(array)}: it must be [N], [N, 1], or [N, L] of zeros and ones"
        )
    if len(array) != images:
        name = key.replace("labels", "images")
        raise RequestError(
            f"{key} has {len(array)} rows and {name} {images}: one label row an image"
        )
    if array.dtype.kind == "i" and array.min() < 0:
        raise RequestError(f"{key} holds {array.min()}: labels count from 0")
    if array.ndim == 2 and array.max() > 1:
        raise RequestError(
            f"{key} holds {array.max()} in {array.shape[1]} columns: several labels an "
            "image are columns of zeros and ones"
        )
    return array


def _warn_of_one_hot(labels: dict[str, Array]) -> None:
    if labels["train"].ndim == 2 and all((array.sum(1) == 1).all() for array in labels.values()):
        warnings.warn(
            f"every image has exactly one of {labels['train'].shape[1]} labels, as one-hot labels "
            "of classes do: they are trained as labels of which an image may have several; for "
            "classes save labels.argmax(1) instead",
            stacklevel=4,
        )


def _class_names(names: Array | None, labels: dict[str, Array]) -> tuple[str, ...]:
    """What the classes are called: the numbers of those that there are where no names are given."""
    train = labels["train"]
    multi_label = train.ndim == 2
    classes = train.shape[1] if multi_label else int(train.max()) + 1
    if names is not None:
        if names.ndim != 1 or names.dtype.kind != "U":
            raise RequestError(f"class_names are {names.dtype} {_shape(names)}: one string a class")
        if len(names) < classes or (multi_label and len(names) != classes):
            raise RequestError(
                f"{len(names)} class_names for {classes} classes: one string a class"
            )
        classes = len(names)
    if not multi_label:
        _check_classes(labels, classes)
    if names is None:
        return tuple(str(number) for number in range(classes))
    composed = tuple(unicodedata.normalize("NFC", str(name)) for name in names)
    for name, count in Counter(composed).items():
        if count > 1:
            raise RequestError(f"class_names holds '{name}' {count} times: each class has its own")
    return composed


def _check_classes(labels: dict[str, Array], classes: int) -> None:
    """Every class has a training image, and every label a class."""
    # The first gap: with 0, 1, 3 present it is position 2.
    present = enumerate([*np.unique(labels["train"]).tolist(), -1])
    absent = next(position for position, label in present if position != label)
    if absent < classes:
        raise RequestError(
            f"class {absent} of {classes} has no training image: number the classes that there "
            "are from 0 without gaps"
        )
    if classes < 2:
        raise RequestError("all training labels are 0: give two classes or more")
    for part, array in labels.items():
        if array.max() >= classes:
            raise RequestError(
                f"{part}_labels holds {array.max()}, but there are {classes} classes: labels go "
                f"from 0 to {classes - 1}"
            )
